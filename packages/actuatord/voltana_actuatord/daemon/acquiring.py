"""Leases that are asked for, until every GPU has been looked at, which may take its time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana_actuatord.faults import LeaseRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voltana_actuatord.daemon.gpulink import Examined
    from voltana_actuatord.daemon.leases import Peer
    from voltana_actuatord.protocol import Acquire

ANSWER_LIMIT_S = 0.8
"""How long a GPU may take; a client waits for a second."""


@dataclass(slots=True)
class Pending:
    """A lease that is asked for.

    Attributes:
        peer: Who asks.
        request: What for.
        ends_s: Until when it is waited for.
        waiting: GPUs that have not been looked at yet.
    """

    peer: Peer
    request: Acquire
    ends_s: float
    waiting: set[str]


class Acquiring:
    """What is pending, by connection. Pure bookkeeping."""

    def __init__(self) -> None:
        self._pending: dict[int, Pending] = {}

    def __contains__(self, key: int) -> bool:
        return key in self._pending

    def begin(self, key: int, peer: Peer, request: Acquire, now_s: float) -> None:
        """A connection asks for a lease."""
        ends_s = now_s + ANSWER_LIMIT_S
        self._pending[key] = Pending(peer, request, ends_s, set(request.devices))

    def forget(self, key: int) -> None:
        """It is gone, or has its answer."""
        self._pending.pop(key, None)

    def take(
        self, found: Examined
    ) -> Iterator[tuple[int, Peer, Acquire, LeaseRefusedError | None]]:
        """A GPU was looked at: what can be answered now, with the reason if it is no."""
        for key, pending in list(self._pending.items()):
            if found.device not in pending.waiting:
                continue
            pending.waiting.discard(found.device)
            why = None
            if found.refusal:
                why = LeaseRefusedError(found.refusal, transient=found.transient)
            if why is not None or not pending.waiting:
                del self._pending[key]
                yield key, pending.peer, pending.request, why

    def lose(self, uuid: str, why: LeaseRefusedError) -> Iterator[tuple[int, LeaseRefusedError]]:
        """A GPU cannot be looked at: whose lease fails by it."""
        for key, pending in list(self._pending.items()):
            if uuid in pending.waiting:
                del self._pending[key]
                yield key, why

    def late(self, now_s: float) -> Iterator[tuple[int, LeaseRefusedError]]:
        """Whose GPUs take too long."""
        for key, pending in list(self._pending.items()):
            if pending.ends_s <= now_s:
                del self._pending[key]
                names = ", ".join(sorted(pending.waiting))
                text = f"the driver does not answer for {names}. Try again, or see `dmesg`."
                yield key, LeaseRefusedError(text, transient=True)

    def next_end_s(self) -> float:
        """When the next one is late; inf if none is pending."""
        return min((one.ends_s for one in self._pending.values()), default=math.inf)
