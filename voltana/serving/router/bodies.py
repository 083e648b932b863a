"""JSON bodies, in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from voltana.serving.router.problem import JSON_TYPE, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

NESTING = 100
"""Depth of lists and objects where nobody sets it; writing JSON ends at 254."""


_YES = frozenset({"1", "1.0", "on", "t", "true", "y", "yes"})
"""What servers read as yes, who take words and numbers for it, too."""

_LONGEST_FLAG = 16


def says_yes(value: Any) -> bool:
    """Whether servers read a field as yes; what is neither yes nor no they refuse."""
    if value is True or value is False or value is None:  # mostly
        return value is True
    if not isinstance(value, str | int | float):  # a list of millions takes long to write
        return False
    return (not isinstance(value, str) or len(value) <= _LONGEST_FLAG) and str(
        value
    ).lower() in _YES


def json_response(value: object) -> web.Response:
    """A value as JSON."""
    return web.Response(body=orjson.dumps(value), headers={"Content-Type": JSON_TYPE})


async def json_object(request: web.Request) -> dict[str, Any]:
    """The JSON object that a request carries.

    Raises:
        Problem: If it carries none.
    """
    return parse_object(await request.read())


def parse_object(raw: bytes | bytearray, nesting: int = NESTING) -> dict[str, Any]:
    """A JSON object.

    Args:
        raw: Its text.
        nesting: How deep its lists and objects may lie in each other.

    Raises:
        Problem: If it is none, or too deep.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "memory" in str(error):
            raise MemoryError from None
        raise Problem(400, f"the body is not valid JSON: {error}.", "invalid_json") from None
    if not isinstance(value, dict):
        raise Problem(
            400, f"the body is a JSON {type(value).__name__}: must be an object.", "invalid_json"
        )
    if raw.count(b"[") + raw.count(b"{") > nesting and _deeper(value, nesting):
        raise Problem(
            400,
            f"the body's lists and objects lie more than {nesting} deep in each other, the limit "
            "of this router (limits.nesting).",
            "too_deep",
        )
    return value


def _deeper(value: dict[str, Any], nesting: int) -> bool:
    """Whether something lies deeper; level by level, since recursion has a limit of its own."""
    level: list[Any] = [value]
    for _ in range(nesting):
        level = [
            inner
            for outer in level
            for inner in _members(outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True


def _members(outer: Any) -> Iterable[Any]:
    return outer.values() if type(outer) is dict else outer
