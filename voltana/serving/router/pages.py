"""The paths that an engine adds to the router's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voltana.serving.router.openai_prompt import CHAT_COMPLETIONS, COMPLETIONS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiohttp import web

    from voltana.serving.router.fan_out import FanOut
    from voltana.serving.router.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What handlers of an engine's pages may use.

    Attributes:
        pool: The servers.
        fan_out: Asks them.
        serve: Answers a request for inference.
        abort: Aborts a request by the client's id and key; whether it was in flight.
        admin_key: ``Authorization`` for what changes servers for everybody; None for none.
    """

    pool: Pool
    fan_out: FanOut
    serve: Callable[[web.Request], Awaitable[web.StreamResponse]]
    abort: Callable[[str, str | None], Awaitable[bool]]
    admin_key: str | None = field(default=None, repr=False)


def _no_more(_desk: Desk) -> Sequence[web.RouteDef]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """What an engine serves.

    Attributes:
        inference: Paths of requests.
        more: Makes handlers of its further paths.
        admin: Makes handlers of its administration, which have a listener of their own.
        moved: Paths of that, of which the public port says where they are.
    """

    inference: tuple[str, ...] = (COMPLETIONS, CHAT_COMPLETIONS)
    more: Callable[[Desk], Sequence[web.RouteDef]] = _no_more
    admin: Callable[[Desk], Sequence[web.RouteDef]] = _no_more
    moved: tuple[str, ...] = ()
