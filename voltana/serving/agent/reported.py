"""Which GPUs the engine's own processes say they compute on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.serving.ring_reader import RingReader, find_rings
from voltana_actuatord.gpu_names import uuid_problem

if TYPE_CHECKING:
    from pathlib import Path

KEY = "gpu_uuids"
"""In what an engine says of itself: UUIDs of the GPUs of the ring's tensor-parallel group."""


def reported_gpus(folder: Path, instance: str) -> tuple[str, ...]:
    """UUIDs that the living engines of an instance report, each once; empty unless all do.

    Some of them must not be taken for the whole: the others' GPUs would be left alone, though the
    configuration names them.

    Args:
        folder: Of the rings.
        instance: Name of the instance.

    Raises:
        ConfigError: If one of them computes on a part of a GPU, or names no GPU.
    """
    uuids: dict[str, None] = {}
    told = [said for path in find_rings(folder, instance) if (said := _said(path)) is not None]
    for said in told if all(told) else ():
        for uuid in said:
            if problem := uuid_problem(uuid):
                raise invalid(f"{KEY} of the engine", uuid, "the UUID of a whole GPU", problem)
            uuids[uuid] = None
    return tuple(uuids)


def _said(path: Path) -> tuple[str, ...] | None:
    """What the writer of a ring reports; None of one that does not live, or is none."""
    try:
        reader = RingReader(path)
    except Exception:  # noqa: BLE001  (whoever takes the ring up says what is wrong with it)
        return None
    try:
        if reader.replaced():
            return None
        said = reader.info.get(KEY) or ()
    finally:
        reader.close()
    return tuple(said) if isinstance(said, (list, tuple)) else (str(said),)
