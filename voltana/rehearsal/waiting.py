"""How long production's processes stood waiting for a processor, as the kernel counts it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.rehearsal.faults import writers

if TYPE_CHECKING:
    from collections.abc import Mapping

_NS = 1e9
_KEPT = ("router", "agent-")
"""Logs of the processes whose waiting shows in figures, by how their names begin."""


def waited_s(logs: Path) -> Mapping[int, float]:
    """Seconds of the wall that each router and agent has waited, all its threads together.

    Args:
        logs: Folder of the logs that they write.
    """
    found: dict[int, float] = {}
    for pid, log in writers():
        if log.parent == logs and log.name.startswith(_KEPT):
            with contextlib.suppress(OSError):
                found[pid] = sum(map(_waited_ns, Path(f"/proc/{pid}/task").iterdir())) / _NS
    return found


def most_waited_s(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """What the process waited that waited longest; 0 where the kernel counts nothing.

    Args:
        before: What `waited_s` found at the start.
        after: The same at the end.
    """
    rose = [after[pid] - before[pid] for pid in before.keys() & after.keys()]
    return max(rose, default=0.0)


def _waited_ns(task: Path) -> int:
    """The second of the three numbers that the kernel keeps of a thread."""
    with contextlib.suppress(OSError, IndexError):
        return int((task / "schedstat").read_text(encoding="ascii").split()[1])
    return 0
