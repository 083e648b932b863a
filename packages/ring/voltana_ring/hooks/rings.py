"""Makes the ring that a scheduler's measurements go into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana_ring.paths import bell_path, make_folder, ring_path
from voltana_ring.writer import RingWriter

if TYPE_CHECKING:
    from pathlib import Path

    from voltana_ring.hooks.facts import EngineFacts


def make_ring(rings: Path, instance: str, facts: EngineFacts) -> RingWriter:
    """A new ring in the folder of the rings, which is made where it is not there.

    Args:
        rings: The folder.
        instance: Name of the instance.
        facts: What its header says of the scheduler.

    Raises:
        OSError: If it cannot be made.
    """
    make_folder(rings)
    return RingWriter(
        ring_path(rings, instance, facts.ring_suffix), bell_path(rings, instance), facts.to_dict()
    )
