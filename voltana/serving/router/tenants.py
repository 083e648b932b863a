"""Who a request is counted for: a name from a header or a field of its body, which is not trusted.

Every name becomes a label of metrics, and each of those costs memory in router and Prometheus for
ever. So there are at most `MOST` of them, each short and printable; whoever comes later, or by
something that is no name, is `OTHER`. Names that the configuration lists have a place from the
start, which no flood of made-up ones can take from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST = 100
"""Names that are told apart."""

LONGEST = 64
OTHER = "other"
"""All that have no name of their own."""

NO_NAME = "\n"
"""What stands for something that is no name."""

UNNAMED = "unnamed"
"""Requests that name nobody."""


def tenant_in(fields: Mapping[str, Any], key: str | None) -> str:
    """What a body says of who it is from, for engines to put into a `Call`; empty if nothing.

    Args:
        fields: The body.
        key: The field; None where none is configured.
    """
    value = None if key is None else fields.get(key)
    if value is None:
        return ""
    return value[: LONGEST + 1] if isinstance(value, str) else NO_NAME


class Tenants:
    """The names that are told apart.

    Args:
        known: Names that have a place from the start, `MOST` at most.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._names = set(known)

    def named(self, name: str) -> str:
        """The name under which a request is counted.

        Args:
            name: As the client gave it; empty where it gave none.
        """
        if not name:
            return UNNAMED
        if len(name) > LONGEST or not name.isprintable():
            return OTHER
        if name in self._names or name in {OTHER, UNNAMED}:
            return name
        if len(self._names) >= MOST:
            return OTHER
        self._names.add(name)
        return name
