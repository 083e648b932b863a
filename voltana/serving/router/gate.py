"""Who is let in: limits of what is open, of a client's part of it, and of the router's own delay.

Whoever is not is told at once, with 429 and ``Retry-After``: a queue would only make all late.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network
from random import Random
from typing import TYPE_CHECKING, Any

from voltana.serving.router.problem import Problem

if TYPE_CHECKING:
    from voltana.serving.router.settings import RouterTable

TICK_S = 0.02
"""How often the event loop is asked how late it is."""

SMOOTH = 0.3
"""Weight of the newest delay."""

MOST_REFUSED = 0.95
"""Some requests are always let in, so that the delay is seen to end."""


class Gate:
    """Admits requests; `open` and `leave` say what it counts.

    Args:
        settings: Its limits.

    Attributes:
        draining: New requests are refused.
        open: Requests that are open.
        late_s: Recent delay of the event loop, smoothed.
    """

    def __init__(self, settings: RouterTable) -> None:
        limits = settings.limits
        self._most = settings.max_in_flight
        self._busy_s, self._busy_from = limits.busy_ms / 1e3, limits.busy_from
        self._per_client = limits.per_client
        self._trusted = tuple(map(ip_network, limits.trusted))
        self._of_client: dict[str, int] = {}
        self._random = Random(settings.seed)
        self._loop = asyncio.get_running_loop()
        self._due_s = self._loop.time() + TICK_S
        self._timer = self._loop.call_at(self._due_s, self._tick)
        self.draining = False
        self.open = 0
        self.late_s = 0.0

    def admit(self) -> None:
        """Let a request in whose body has not been read yet.

        Raises:
            Problem: If the router shuts down, or does not come to its work.
        """
        if self.draining:
            raise Problem(
                503,
                "this router is shutting down. Send the request to another one.",
                "shutting_down",
                retry_after_s=1.0,
            )
        if self.late_s > self._busy_s and self.open >= self._busy_from:
            share = min(MOST_REFUSED, self.late_s / self._busy_s - 1.0)
            if self._random.random() < share:
                raise _too_much(
                    f"this router is {1e3 * self.late_s:.0f} ms behind its work, beyond its limit "
                    "(limits.busy_ms)",
                    "busy",
                )

    def enter(self, client: str) -> None:
        """Count a request that is complete; to be undone by `leave`, even if it is refused.

        Args:
            client: Its address.

        Raises:
            Problem: If there are too many already.
        """
        self.open += 1
        mine = 0
        if self._per_client:
            mine = self._of_client[client] = self._of_client.get(client, 0) + 1
        if self.open > self._most:
            raise _too_much(
                f"{self._most} requests are open, the limit of this router (max_in_flight)",
                "overloaded",
            )
        if mine > self._per_client and not self._is_trusted(client):
            raise _too_much(
                f"{self._per_client} requests of this address are open, the limit of this router "
                "(limits.per_client)",
                "client_limit",
            )

    def leave(self, client: str) -> None:
        """A request has ended."""
        self.open -= 1
        if client in self._of_client:
            self._of_client[client] -= 1
            if self._of_client[client] <= 0:
                del self._of_client[client]

    def close(self) -> None:
        """Look at the delay no more."""
        self._timer.cancel()

    def _is_trusted(self, client: str) -> bool:
        try:
            address: Any = ip_address(client)
        except ValueError:  # a unix socket
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._trusted)

    def _tick(self) -> None:
        now_s = self._loop.time()
        self.late_s += SMOOTH * (now_s - self._due_s - self.late_s)
        self._due_s = now_s + TICK_S
        self._timer = self._loop.call_at(self._due_s, self._tick)


def _too_much(what: str, code: str) -> Problem:
    return Problem(429, f"{what}. Send the request again later.", code, retry_after_s=1.0)
