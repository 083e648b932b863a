"""The plugin's rings in shared memory as an agent's source of records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.serving.ring_reader import RingReader, find_rings

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Rings:
    """The rings of one instance.

    Attributes:
        folder: Where they are.
        instance: Name of the instance.
    """

    folder: Path
    instance: str

    def find(self) -> list[Path]:
        """Files of the rings, in order of their ranks' names."""
        return find_rings(self.folder, self.instance)

    def open(self, path: Path) -> RingReader:
        """Read a ring from now on.

        Raises:
            RingError: If the file is no ring of this version.
            OSError: If it cannot be opened.
        """
        return RingReader(path)

    def problem(self) -> str:
        """Nothing: an engine without a ring may not have been started yet."""
        return ""

    def close(self) -> None:
        """Nothing is held."""
