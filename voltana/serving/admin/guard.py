"""Who may ask an endpoint of administration, and how: checked before anything else is done.

- Under an address of its own, ``localhost`` or a name of the configuration alone: a web page cannot
  reach it by a name of its own that it has resolve to this address (DNS rebinding).
- Never from a web page: whatever carries ``Origin`` is refused.
- Reading figures (health, metrics) needs no more; everything else needs the token.
- Who shows no token waits for his turn, if many ask.
- Nothing is changed by GET, nor by a body that is not declared as JSON, which pages may not send.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from voltana.serving.admin.pace import Pace, ToldAgain
from voltana_actuatord.metrics.called import called

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from aiohttp.typedefs import Middleware

    from voltana.serving.admin.token import Token

FIGURES = "/metrics"
FREE = frozenset({"/health", FIGURES})
"""What may be read without the token: an unprivileged Prometheus reads it."""

READING = frozenset({"GET", "HEAD"})

READ_S = 5.0
"""Time for a body, which has a few bytes."""


def guard(token: Token | None, *, host: str, names: Collection[str] = ()) -> Middleware:
    """The middleware that refuses whoever may not ask.

    Args:
        token: The token; None where none can be kept, so that figures alone can be read.
        host: Where the endpoint listens.
        names: Names under which it may be asked, beside addresses and ``localhost``.
    """
    loopback, pace, figures = is_loopback(host), Pace(), ToldAgain()

    @web.middleware
    async def check(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        shown = _is_shown(request, token)
        waited = not shown and await pace.turn()
        refusal = _refusal(request, token, shown=shown, loopback=loopback, names=names)
        if refusal is not None:
            return refusal
        try:
            if request.method not in READING:
                async with asyncio.timeout(READ_S):
                    await request.read()
            if request.path == FIGURES:
                return await figures.answer(lambda: handler(request), again=waited)
            return await handler(request)
        except TimeoutError:
            return refused(408, f"the body was not there within {READ_S:g} s")
        except web.HTTPException as error:
            return refused(error.status, error.reason, error.headers.get("Allow"))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001  (one request's, whatever it is)
            structlog.get_logger("voltana.admin").exception(
                "a request of the administration failed", path=request.path, error=repr(error)
            )
            return refused(500, "this failed; the log says why")

    return check


def refused(status: int, why: str, allow: str | None = None) -> web.Response:
    """An answer that says why not."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if allow is not None:
        headers["Allow"] = allow
    return web.json_response({"error": why}, status=status, headers=headers)


def _refusal(
    request: web.Request,
    token: Token | None,
    *,
    shown: bool,
    loopback: bool,
    names: Collection[str],
) -> web.Response | None:
    elsewhere = from_elsewhere(request, loopback=loopback, names=names)
    return elsewhere or _not_permitted(request, token, shown=shown)


def _is_shown(request: web.Request, token: Token | None) -> bool:
    """Whether a request shows the token."""
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    return token is not None and kind.lower() == "bearer" and token.opens(given.strip())


def from_elsewhere(
    request: web.Request, *, loopback: bool, names: Collection[str]
) -> web.Response | None:
    """The refusal of who asks under a foreign name, or from a web page; None for all others."""
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1 or not _may_be_called(hosts[0], loopback=loopback, names=names):
        here = "127.0.0.1 or localhost" if loopback else "the address, or a name of admin_names"
        return refused(403, f"ask under {here}")
    if "Origin" in request.headers:
        return refused(403, "web pages are not answered")
    return None


def _not_permitted(
    request: web.Request, token: Token | None, *, shown: bool
) -> web.Response | None:
    reading = request.method in READING
    if reading and request.path in FREE:
        return None
    if token is None:
        return refused(503, "there is no token; the log says why")
    if not shown:
        return refused(401, f"send Authorization: Bearer TOKEN; the token is in {token.where}")
    if not reading and request.content_type != "application/json":
        return refused(415, "send Content-Type: application/json")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return refused(415, "send the body unpacked, without Content-Encoding")
    return None


def _may_be_called(host: str, *, loopback: bool, names: Collection[str]) -> bool:
    """Whether a request may name this host so."""
    name = called(host)
    if name == "localhost" or name in names:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    # No page can have an address resolve to another one.
    return address.is_loopback if loopback else True


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is of this host alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
