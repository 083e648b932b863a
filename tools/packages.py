"""Builds our distributions as they are published, and tries each where nothing else is installed.

``python -m tools.packages`` builds a source distribution and from it a wheel of each, holds them to
``twine check --strict``, compares their versions and contents, installs each wheel into an empty
environment of its own, and runs what a user would run first. Dependencies come from the index that
pip is configured for; `--offline` takes those of this environment instead.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
PROJECTS = {
    at.parent: tomllib.loads(at.read_text(encoding="utf-8"))["project"]
    for pattern in ("pyproject.toml", "packages/*/pyproject.toml", "integrations/*/pyproject.toml")
    for at in sorted(ROOT.glob(pattern))
}
"""Our distributions: their folders, and what they say of themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What an installed distribution has to do.

    Attributes:
        requirement: What is installed: a distribution of ours, with extras.
        commands: Run one after the other; each has to end with 0. The first word is a program of
            the environment.
        absent: Modules that must not have come along.
    """

    requirement: str
    commands: tuple[tuple[str, ...], ...]
    absent: tuple[str, ...] = ()


PLUGIN = (
    "from importlib.metadata import entry_points; "
    "(plugin,) = entry_points(group='sglang.srt.plugins'); plugin.load()()"
)
"""As an engine loads it; without a configuration it does nothing."""

TRIALS = (
    Trial(
        requirement="voltana-ring",
        commands=(("python", "-c", "import voltana_ring; print(voltana_ring.__file__)"),),
        absent=("numpy", "pydantic", "voltana"),
    ),
    Trial(
        requirement="voltana-actuatord",
        commands=(("voltana-actuatord", "--help"),),
        absent=("numpy", "river", "voltana"),
    ),
    Trial(
        requirement="voltana-sglang",
        commands=(("python", "-c", PLUGIN),),
        absent=("numpy", "pydantic", "voltana"),
    ),
    Trial(
        requirement="voltana-vllm",
        commands=(("python", "-c", PLUGIN.replace("sglang.srt.plugins", "vllm.general_plugins")),),
        absent=("numpy", "pydantic", "voltana"),
    ),
    Trial(
        requirement="voltana",
        commands=(
            ("voltana", "--help"),
            ("voltana", "plant", "list"),
            ("voltana", "simulate", "--policy", "voltana", "--duration", "2"),
        ),
        absent=("matplotlib", "aiohttp", "pyarrow", "voltana_ring"),
    ),
    Trial(
        requirement="voltana-sglang[serving]",
        commands=(("voltana-sglang", "launch", "--help"), ("voltana", "top", "--help")),
    ),
)


class PackageError(Exception):
    """A distribution that may not be published; the text says which, and why."""


def build(into: Path) -> list[Path]:
    """Build all source distributions, and all wheels from these.

    Returns:
        The archives, two for each distribution.

    Raises:
        subprocess.CalledProcessError: If one cannot be built.
    """
    environment = {**os.environ, "VOLTANA_RELEASE": "1"}
    for folder in PROJECTS:
        command = [
            sys.executable,
            "-m",
            "uv",
            "build",
            "-q",
            "--out-dir",
            str(into),
            str(ROOT / folder),
        ]
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
    return sorted(path for path in into.iterdir() if path.suffix in {".whl", ".gz"})


def check(archives: list[Path]) -> str:
    """Hold archives to what an index and a reader ask of them.

    Returns:
        The one version of all of them.

    Raises:
        PackageError: If versions differ, metadata does not render, a licence or a description is
            missing, or a dependency points into this machine.
    """
    versions = {_version(path) for path in archives}
    if len(versions) != 1:
        raise PackageError(f"versions differ: {sorted(versions)}; hatch_build.py has the one")
    if len(archives) != 2 * len(PROJECTS):
        raise PackageError(f"{len(archives)} archives of {len(PROJECTS)} distributions")
    for path in archives:
        names, metadata = _content(path)
        if "file://" in metadata or str(ROOT) in metadata:
            raise PackageError(f"{path.name} depends on a folder of this machine")
        if "Project-URL: Documentation" not in metadata or "License-Expression:" not in metadata:
            raise PackageError(f"{path.name} lacks its URLs or its licence")
        if not any(name.rpartition("/")[2] == "LICENSE" for name in names):
            raise PackageError(f"{path.name} does not carry the text of its licence")
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, archives)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise PackageError(f"twine check: {done.stdout}{done.stderr}")
    return versions.pop()


def try_out(trial: Trial, found: Path, folder: Path, *, offline: bool) -> None:
    """Install one distribution into an empty environment, and run it.

    Args:
        trial: What is installed and run.
        found: Folder of our wheels.
        folder: Where the environment is made.
        offline: Whether other people's packages are those of this environment.

    Raises:
        PackageError: If something fails, or brings along what it must not.
    """
    _run([sys.executable, "-m", "uv", "venv", "-q", "--python", sys.executable, str(folder)])
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "uv", "pip", "install", "-q", "--python", str(python)]
    _run(
        [
            *install,
            "--find-links",
            str(found),
            *(["--offline"] if offline else []),
            trial.requirement,
        ]
    )
    for module in trial.absent:
        probe = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is not None)"
        _run(
            [str(python), "-c", probe], cwd=folder, why=f"{trial.requirement} brings {module} along"
        )
    for program, *arguments in trial.commands:
        _run([str(folder / "bin" / program), *arguments], cwd=folder)


def _run(command: list[str], *, cwd: Path | None = None, why: str = "") -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise PackageError(f"{why or ' '.join(command)}: exit code {done.returncode}\n{said}")


def _version(archive: Path) -> str:
    return archive.name.removesuffix(".tar.gz").removesuffix(".whl").split("-")[1]


def _content(archive: Path) -> tuple[list[str], str]:
    """Names of an archive's files, and its metadata."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            names = file.namelist()
            (at,) = (name for name in names if name.endswith(".dist-info/METADATA"))
            return names, file.read(at).decode("utf-8")
    with tarfile.open(archive) as file:
        names = file.getnames()
        (at,) = (name for name in names if name.count("/") == 1 and name.endswith("/PKG-INFO"))
        member = file.extractfile(at)
        return names, member.read().decode("utf-8") if member else ""


def main() -> int:
    """Build, check and try all of them; what was built stays in ``dist/``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--offline", action="store_true", help="take dependencies from the cache")
    offline = parser.parse_args().offline
    DIST.mkdir(exist_ok=True)
    for old in DIST.iterdir():
        old.unlink()
    try:
        archives = build(DIST)
        print(f"built {len(archives)} archives of version {check(archives)}; twine check is clean")
        for trial in TRIALS:
            with tempfile.TemporaryDirectory() as folder:
                try_out(trial, DIST, Path(folder) / "venv", offline=offline)
            print(f"{trial.requirement}: installs into an empty environment, and runs")
    except PackageError as fault:
        print(f"packages: {fault}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
