"""The fake driver of `voltana.rehearsal`, strictly compiled, and with a nvidia-smi."""

from __future__ import annotations

from pathlib import Path

from voltana.rehearsal import fake_driver
from voltana.rehearsal.fake_driver import compiler
from voltana.rehearsal.machine import ALWAYS, WORD, Machine, uuid_of

__all__ = ["ALWAYS", "WORD", "Machine", "build", "build_smi", "compiler", "uuid_of"]

SMI = Path(__file__).parent / "fake_nvml" / "fake_smi.c"
STRICT = ("-Wall", "-Wextra", "-Werror")


def build(folder: Path) -> Path:
    """Build ``libnvidia-ml.so.1`` in `folder` and return the folder, for LD_LIBRARY_PATH."""
    return fake_driver.build(folder, *STRICT)


def build_smi(folder: Path, library: Path) -> Path:
    """Build the fake nvidia-smi in `folder` and return its path."""
    program = folder / "nvidia-smi"
    sources = str(SMI), str(library / fake_driver.LIBRARY)
    fake_driver.compile_c(*STRICT, "-o", str(program), *sources)
    return program
