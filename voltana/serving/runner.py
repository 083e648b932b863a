"""Runs an application so that nobody is answered before those who guard it have looked at him.

What lets connections send piece by piece (`inlets`) is told when each request is begun.

aiohttp sees to the header ``Expect`` ahead of all middlewares: an expectation that nobody can meet
is refused by an error, out of their sight, so that whoever has no token need not wait for his turn,
and each leaves a cycle of objects behind. A server may as well ignore it (RFC 9110, 10.1.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from voltana.serving.http_log import HttpLog
from voltana.serving.inlets import Inlet

if TYPE_CHECKING:
    from collections.abc import Callable

_KNOWN = "100-continue"


class Runner(web.AppRunner):
    """An `aiohttp.web.AppRunner` whose application sees every request.

    Args:
        app: The application.
        options: Those of `aiohttp.web.AppRunner`.
    """

    __slots__ = ()

    def __init__(self, app: web.Application, **options: Any) -> None:
        super().__init__(app, logger=HttpLog(), **options)

    async def setup(self) -> None:
        """Get ready to listen."""
        await super().setup()
        server = self._server
        if server is not None:
            server.request_factory = _begins(_without_expectations(server.request_factory))


def _begins(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    def made(message: Any, payload: Any, protocol: Any, *others: Any) -> web.BaseRequest:
        inlet = protocol.transport
        if isinstance(inlet, Inlet):
            inlet.begun()
        return make(message, payload, protocol, *others)

    return made


def _without_expectations(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    def made(message: Any, *others: Any) -> web.BaseRequest:
        expected = message.headers.get("Expect")
        if expected is not None and expected.lower() != _KNOWN:
            headers = CIMultiDict(message.headers)
            del headers["Expect"]
            message = message._replace(headers=CIMultiDictProxy(headers))
        return make(message, *others)

    return made
