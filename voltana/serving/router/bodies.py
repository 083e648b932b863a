"""JSON bodies, in and out."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from voltana.serving.router.problem import JSON_TYPE, Problem


def json_response(value: object) -> web.Response:
    """A value as JSON."""
    return web.Response(body=orjson.dumps(value), headers={"Content-Type": JSON_TYPE})


async def json_object(request: web.Request) -> dict[str, Any]:
    """The JSON object that a request carries.

    Raises:
        Problem: If it carries none.
    """
    return parse_object(await request.read())


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Problem: If it is none.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is not valid JSON: {error}.", "invalid_json") from None
    if not isinstance(value, dict):
        raise Problem(
            400, f"the body is a JSON {type(value).__name__}: must be an object.", "invalid_json"
        )
    return value
