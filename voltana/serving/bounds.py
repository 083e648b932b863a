"""Numbers of others, bounded where they are read: a feed's, an engine's, a snapshot's.

Whoever computes with a number that came over a socket relies on its being one, and of a size that
can be added up. One that is not is an error of the message that holds it, and of nothing else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 1e12
"""No figure of ours is larger, in whatever unit: seconds, tokens, watts, hertz."""

MOST_MHZ = 1e5
_MOST_COEFFICIENT = 1e24
_NAMED_KEYS = frozenset({"kind", "group"})
_UNKNOWN_KEYS = frozenset({"relative_deviation"})
"""Keys of models under which a name may stand, or nothing (`PhaseModel.to_dict`)."""

MOST_NODES = 1 << 14
"""Values of one model, which are looked at in one go: 15 ms of the event loop at the worst."""

MOST_DEPTH = 12


def number(
    field: str,
    value: Any,
    least: float = 0.0,
    most: float = MOST,
    *,
    infinite: bool = False,
    unknown: bool = False,
) -> float:
    """A number of a message.

    Args:
        field: What it is, for the error.
        value: As it came.
        least: The least that is allowed.
        most: The most.
        infinite: Whether it may be inf, which stands for "no limit".
        unknown: Whether it may be nan, which stands for "not known".

    Raises:
        ValueError: If it is none, or out of its range.
    """
    if isinstance(value, float | int) and not isinstance(value, bool):
        if least <= value <= most:
            return float(value)
        if (infinite and value == math.inf) or (unknown and value != value):  # noqa: PLR0124
            return float(value)
    raise ValueError(f"{field} = {_shown(value)}: must be a number from {least:g} to {most:g}")


def whole(field: str, value: Any, least: int = 0, most: int = int(MOST)) -> int:
    """A whole number of a message.

    Raises:
        ValueError: If it is none, or out of its range.
    """
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise ValueError(f"{field} = {_shown(value)}: must be a whole number from {least} to {most}")


def count(field: str, value: Any) -> int:
    """How many of something there are, which others may write as a number with a point.

    Raises:
        ValueError: If it is no such number.
    """
    return whole(field, int(value) if isinstance(value, float) and value.is_integer() else value)


def check_model(field: str, values: Any, *, infinite: bool = False) -> None:
    """Check that an encoded model holds numbers that can be computed with, at whatever depth.

    NumPy makes nan of a None and of the word, so that neither may stand where a number does.

    Args:
        field: What it is, for the error.
        values: Tables, lists and numbers.
        infinite: Whether a number may be inf.

    Raises:
        ValueError: If it holds anything else, or too much, or too deep.
    """
    for key, value in _leaves(field, values):
        if key in _NAMED_KEYS if isinstance(value, str) else value is None and key in _UNKNOWN_KEYS:
            continue
        number(field, value, -_MOST_COEFFICIENT, _MOST_COEFFICIENT, infinite=infinite)


def check_facts(field: str, values: Any) -> None:
    """Check that every number of a table is one that can be computed with, at whatever depth.

    Args:
        field: What it is, for the error.
        values: Tables, lists, numbers, words, true or false, and nothing.

    Raises:
        ValueError: If it holds anything else, or too much, or too deep.
    """
    for _, value in _leaves(field, values):
        if value is not None and not isinstance(value, str | bool):
            number(field, value, -MOST)


def _leaves(field: str, values: Any) -> Iterator[tuple[str | None, Any]]:
    """Everything in tables and lists that is neither, each with the key that it has in a table."""
    left = MOST_NODES
    level: list[tuple[str | None, Any]] = [(None, values)]
    for _ in range(MOST_DEPTH):
        left -= len(level)
        below: list[tuple[str | None, Any]] = []
        for key, value in level:
            if len(below) > left:
                raise ValueError(f"{field} has more than {MOST_NODES} values")
            if isinstance(value, dict):
                below += value.items()
            elif isinstance(value, list | tuple):
                below += ((None, inner) for inner in value)
            else:
                yield key, value
        if not below:
            return
        level = below
    raise ValueError(f"{field} is nested more than {MOST_DEPTH} deep")


def _shown(value: Any) -> str:
    """What came, cut short; a number of thousands of digits cannot even be written out."""
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
