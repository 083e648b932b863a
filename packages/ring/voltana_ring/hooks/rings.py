"""Makes the ring that a scheduler's measurements go into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana_ring.paths import bell_path, make_folder, ring_path
from voltana_ring.writer import RingWriter

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from voltana_ring.hooks.facts import EngineFacts


def make_ring(rings: Path, instance: str, facts: EngineFacts, log: logging.Logger) -> RingWriter:
    """A new ring in the folder of the rings, which is made where it is not there.

    An engine that was started anew takes the place of the one before, which may be ending still.

    Args:
        rings: The folder.
        instance: Name of the instance.
        facts: What its header says of the scheduler.
        log: The engine's log.

    Raises:
        OSError: If it cannot be made.
        ValueError: If the facts are too long.
    """
    make_folder(rings)
    path = ring_path(rings, instance, facts.ring_suffix)
    ring = RingWriter(path, bell_path(rings, instance), facts.to_dict())
    if ring.ousts:
        log.warning(
            "voltana: an engine that still runs has written to %s: from now on it is neither "
            "measured nor controlled. If it is not about to end, give each server a name of its "
            "own.",
            path,
        )
    return ring
