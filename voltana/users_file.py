"""Reads the text of a file that a user names, whatever is in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 1 << 26
"""No table of numbers is longer; devices have no end."""


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The text of a file, with or without a byte order mark.

    Args:
        path: The file.
        most_bytes: How long it may be.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is longer, or not UTF-8.
    """
    with path.open("rb") as file:
        raw = file.read(most_bytes + 1)
    if len(raw) > most_bytes:
        raise ValueError(f"it is longer than {most_bytes} bytes")
    return raw.decode("utf-8-sig")


def load_json(text: str) -> Any:
    """A JSON value, in which no object names a field twice.

    Raises:
        ValueError: If it is none.
        RecursionError: If it lies too deep.
    """
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r:.80} stands twice in one object")
    return found
