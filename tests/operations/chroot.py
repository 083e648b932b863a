"""A Debian in a folder, in which the steps of Containerfiles and of an operator are executed."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = "ca-certificates,python3,python3-venv,systemd,passwd"

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""Of the machine: what its package index is reached through may have one of its own."""

LEFT_OUT = (
    ".git", ".venv*", "out", "build", "dist", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis"
)  # fmt: skip


def base() -> Path:
    """The bare Debian, which is fetched once and kept in the user's cache (its copies are used)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = cache / "voltana" / f"debian-{SUITE}"
    if not (kept / "etc" / "debian_version").exists():
        made = kept.with_suffix(".making")
        _remove(made)
        made.parent.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, made, MIRROR],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        except BaseException:
            _remove(made)
            raise
        made.rename(kept)
    return kept


def _remove(folder: Path) -> None:
    """Remove what an earlier try left behind, but nothing that it had mounted."""
    for mounted in ("proc", "sys", "dev"):
        subprocess.run(["umount", "-R", folder / mounted], check=False, stderr=subprocess.DEVNULL)
    if not any(os.path.ismount(folder / name) for name in ("proc", "sys", "dev")):
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Chroot:
    """A copy of the bare Debian.

    Attributes:
        root: Where it lies.
        environment: Variables of what runs in it.
        user: Who runs it, as ``UID:GID``; root at first.
        folder: Where it runs.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"

    @classmethod
    def at(cls, root: Path) -> Chroot:
        """Make a copy at a path that is not there yet."""
        subprocess.run(["cp", "-a", "--reflink=auto", base(), root], check=True)
        for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(name, root / name[1:])
        shutil.copy(CERTIFICATES, root / str(CERTIFICATES)[1:])
        index = {
            k: v for k, v in os.environ.items() if re.match(r"PIP_|https?_proxy|no_proxy", k, re.I)
        }
        usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # No init runs in it: units are enabled, and nothing is started.
        own = {"PATH": usual, "HOME": "/root", "LC_ALL": "C.UTF-8", "SYSTEMD_OFFLINE": "1"}
        return cls(root, index | own)

    def run(self, script: str, *, check: bool = True, user: str | None = None) -> str:
        """Run a script by its shell; what it says.

        Raises:
            AssertionError: If it fails, with its last words.
        """
        done = subprocess.run(
            [
                "chroot", f"--userspec={user or self.user}", str(self.root),
                "/bin/sh", "-euc", f"cd {shlex.quote(self.folder)}\n{script}",
            ],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{script}\n{done.stdout[-3000:]}"
        return done.stdout

    def copy(self, sources: list[str], target: str) -> None:
        """``COPY``: from the tree of the project, as a builder does it."""
        into = self.root / target.lstrip("/")
        for source in sources:
            found = ROOT / source
            assert found.exists(), f"COPY {source}: not in the tree"
            if found.is_dir():
                ignored = shutil.ignore_patterns(*LEFT_OUT)
                shutil.copytree(found, into, ignore=ignored, dirs_exist_ok=True)
                continue
            one = into / found.name if target.endswith("/") else into
            one.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, one)

    def path(self, inside: str) -> Path:
        """Where a path of the chroot lies outside."""
        return self.root / inside.lstrip("/")


def instructions(containerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Containerfile, continued lines joined."""
    text = containerfile.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (x.partition(" ") for x in joined.split("\n"))
    ]


def execute(containerfile: Path, chroot: Chroot) -> dict[str, str]:
    """Execute a Containerfile on what its FROM stands for; the instructions that say how to run it.

    Raises:
        AssertionError: At an instruction that fails, or is none that is known here.
    """
    told: dict[str, str] = {}
    for word, rest in instructions(containerfile):
        if word == "RUN":
            chroot.run(rest)
        elif word == "COPY":
            *sources, target = shlex.split(rest)
            chroot.copy(sources, target)
        elif word == "ENV":
            pairs = dict(pair.split("=", 1) for pair in shlex.split(rest))
            chroot.environment |= pairs
        elif word == "USER":
            chroot.user = rest
        elif word in {"FROM", "ARG", "ENTRYPOINT", "CMD"}:
            told[word] = rest
        else:
            raise AssertionError(f"{word} is not known")
    return told
