"""When a process that ended by itself may start again: at doubling intervals, and not for ever."""

from __future__ import annotations

FIRST_S = 1.0
LONGEST_S = 30.0

MOST = 6
"""Ends in a row after which a process is given up; a minute's worth of them."""

STABLE_S = 60.0
"""Whatever ran for so long had started well: its end is a first one."""


class Restarts:
    """Counts the ends of processes, by their names."""

    def __init__(self) -> None:
        self._in_a_row: dict[str, int] = {}

    def wait_s(self, name: str, ran_s: float) -> float | None:
        """Seconds until a process may start again; None if it has ended too often in a row.

        Args:
            name: Of the process that ended; its end is counted.
            ran_s: How long it ran.
        """
        before = 0 if ran_s >= STABLE_S else self._in_a_row.get(name, 0)
        if before >= MOST:
            return None
        self._in_a_row[name] = before + 1
        return float(min(FIRST_S * 2**before, LONGEST_S))
