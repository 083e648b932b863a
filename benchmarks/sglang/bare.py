"""The least that a router between prefill and decode can do, as a measure of the real one.

An aiohttp application that makes the same two calls and parses what must be parsed: the request,
into which a room is put, and nothing of the answers. It chooses nobody, counts nothing, limits
nothing and survives nothing. Run by `crowd`.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import orjson
import uvloop
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_SESSION = web.AppKey("session", aiohttp.ClientSession)


def make_app(prefill: str, decode: str) -> web.Application:
    """The proxy in front of one pair."""
    host = urlsplit(prefill).hostname

    async def generate(request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        room = {"bootstrap_host": host, "bootstrap_port": 8998}
        raw = orjson.dumps(body | room | {"bootstrap_room": secrets.randbelow(2**63)})
        session = request.app[_SESSION]
        first = asyncio.create_task(_post(session, prefill, raw))
        answer = await _post(session, decode, raw)
        await first
        return web.Response(body=answer, content_type="application/json")

    async def health(_request: web.Request) -> web.Response:
        return web.Response()

    async def session(app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3.0)
        async with aiohttp.ClientSession(connector=connector) as made:
            app[_SESSION] = made
            yield

    app = web.Application()
    app.router.add_post("/generate", generate)
    app.router.add_get("/health", health)
    app.cleanup_ctx.append(session)
    return app


async def _post(session: aiohttp.ClientSession, url: str, raw: bytes) -> bytes:
    headers = {"Content-Type": "application/json"}
    async with session.post(f"{url}/generate", data=raw, headers=headers) as reply:
        return await reply.read()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--prefill", required=True)
    parser.add_argument("--decode", required=True)
    given = parser.parse_args()
    web.run_app(
        make_app(given.prefill, given.decode),
        host="127.0.0.1",
        port=given.port,
        print=None,
        access_log=None,
        backlog=1024,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
