"""Builds the fake driver, a ``libnvidia-ml.so.1``, with the system's C compiler."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from voltana.errors import VoltanaError

SOURCE = Path(__file__).parent / "fake_nvml"
LIBRARY = "libnvidia-ml.so.1"
COMPILERS = ("cc", "gcc", "clang")


class CompilerError(VoltanaError):
    """There is no C compiler, or it did not build the fake driver."""


def compiler() -> str | None:
    """The system's C compiler, if there is one."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


def built() -> Path:
    """The folder of the library, for LD_LIBRARY_PATH; it is built on first use and kept.

    Raises:
        CompilerError: If it cannot be built.
    """
    text = b"".join(path.read_bytes() for path in sorted(SOURCE.iterdir()))
    name = f"fake-nvml-{hashlib.sha256(text).hexdigest()[:16]}"
    folder = _cache() / name
    if (folder / LIBRARY).exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            build(Path(made))
            folder.mkdir(exist_ok=True)
            (Path(made) / LIBRARY).replace(folder / LIBRARY)  # whole, or not there
    except OSError as error:
        raise CompilerError(
            f"the fake driver cannot be kept in {folder}: {error.strerror}. Make room there, or "
            "name another folder by XDG_CACHE_HOME."
        ) from None
    return folder


def build(folder: Path, *flags: str) -> Path:
    """Build the library in `folder` and return the folder.

    Raises:
        CompilerError: If it cannot be built.
    """
    shared = ["-fPIC", "-shared", "-fvisibility=hidden", f"-Wl,-soname,{LIBRARY}"]
    compile_c(*flags, *shared, "-o", str(folder / LIBRARY), str(SOURCE / "fake_nvml.c"))
    return folder


def compile_c(*arguments: str) -> None:
    """Run the compiler.

    Raises:
        CompilerError: If there is none, or it fails; the text says why.
    """
    found = compiler()
    if found is None:
        raise CompilerError(
            f"no C compiler: one of {', '.join(COMPILERS)} must be in the PATH, for the GPUs of a "
            "rehearsal are a driver in C. Install gcc (apt-get install gcc libc6-dev)."
        )
    include = f"-I{SOURCE}"
    done = subprocess.run(
        [found, "-std=c11", "-O2", include, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CompilerError(
            f"{found} did not build the fake driver: {done.stderr.strip()[-500:]} Install the "
            "headers of the C library (apt-get install libc6-dev)."
        )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voltana"
