"""What an agent needs of whoever measures an engine's iterations, whatever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.serving.ring_records import Record


class RecordReader(Protocol):
    """Reads what one scheduler process does, in order.

    Attributes:
        path: Names it; loops and what they have learned are named after it.
        info: What the engine says of itself.
        lost: Records that are known to have been missed.
        torn: Records that came and could not be read.
        position: Number of the record that comes next.
        identity: Names it among all that its path had.
    """

    @property
    def path(self) -> Path:
        """See above."""
        ...

    @property
    def info(self) -> dict[str, Any]:
        """See above."""
        ...

    @property
    def lost(self) -> int:
        """See above."""
        ...

    @property
    def torn(self) -> int:
        """See above."""
        ...

    @property
    def position(self) -> int:
        """See above."""
        ...

    @property
    def identity(self) -> str:
        """See above."""
        ...

    def drain(self, newest: int | None = None) -> list[Record]:
        """Every record since the last call, or the newest so many, in order; never blocks."""
        ...

    def wait_s(self, now_s: float) -> float:
        """How long to wait until it is read again, though nobody says so; inf: until one does."""
        ...

    def go_back(self, position: int, told: int | None = None) -> None:
        """Read on from an earlier record, as far as it is kept.

        Args:
            position: Number of that record.
            told: Changes of requests that were told before it; for readers that number them.
        """
        ...

    def replaced(self) -> bool:
        """Whether the engine is gone, or another one speaks in its place."""
        ...

    def close(self) -> None:
        """Let go of it; may be called twice."""
        ...


class RecordSources(Protocol):
    """Finds the readers of an instance, one for each scheduler process."""

    def find(self) -> list[Path]:
        """Those that there are now, by name and in order of rank."""
        ...

    def open(self, path: Path) -> RecordReader:
        """Read one of them from now on.

        Raises:
            VoltanaError: If it is none that can be read.
            OSError: Likewise.
        """
        ...

    def problem(self) -> str:
        """What is wrong with one that ought to speak; empty if nothing is."""
        ...

    def close(self) -> None:
        """Let go of all; may be called twice."""
        ...
