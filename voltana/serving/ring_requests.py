"""Requests of one scheduler, followed from their arrival to their last token by its moments."""

from __future__ import annotations

import math
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.cluster.queueing import Waiting
from voltana.serving.ring_records import Changed
from voltana.serving.ring_scheduled import WORD
from voltana_ring.hooks.cached_share import CachedShare
from voltana_ring.layout import Change
from voltana_ring.scheduled import NAME_PREFIX, Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from voltana.serving.ring_scheduled import Ended, Prompt, Queued, Scheduled

MAX_REQUESTS = 65_536
"""Followed at once: of more the oldest are forgotten, whose end was not heard of."""

KEPT_NAMES = 256
"""Of requests that ended last: after an error an engine may tell that twice."""

# cmpl-ID-PROMPT or chatcmpl-ID, and what the engine puts behind it.
_NAMED = re.compile(NAME_PREFIX + r"([0-9a-f]{16})[0-9a-f]{16}(?:[-_](\d{1,6})(?![0-9a-f]))?")


@dataclass(slots=True)
class Request:
    """What is known of a request.

    Attributes:
        arrived_s: Its arrival, on the monotonic clock; nan where it was not heard of.
        remote: Whether its KV cache comes from another instance.
        fetches: Whether nothing of its prompt was computed here so far, but the last token: it
            comes from elsewhere. Where that fails, and where it is preempted later, all of it is.
        first_s: When it had its first token; nan before.
        joined: Whether it decodes.
        void: Whether its prompt, which was complete, is computed again before it had a token.
    """

    arrived_s: float = math.nan
    remote: bool = False
    fetches: bool = False
    first_s: float = math.nan
    joined: bool = False
    void: bool = False


class Requests:
    """The requests of one scheduler.

    Attributes:
        known: Those that are there, by name.
        begun: Those of whose prompt a part is computed, by name: tokens of the rest, and before it.
        fresh: Names of those whose prompts are complete and that do not decode yet.
        cached: Which share of recent prompts was found in the prefix cache.
    """

    def __init__(self) -> None:
        self.known: dict[int, Request] = {}
        self.begun: dict[int, tuple[int, int]] = {}
        self.fresh: dict[int, None] = {}
        self.cached = CachedShare()
        self._gone: deque[int] = deque(maxlen=KEPT_NAMES)

    def arrive(self, told: Scheduled) -> tuple[list[Changed], list[int]]:
        """What became of those that are new, and the numbers by which routers know them."""
        changes, rooms = [], []
        for name, arrival_s, remote, rid in told.arrived:
            if name in self.known:  # told again, for what was written behind it failed
                continue
            waited_s = told.wall_s - arrival_s
            at_s = told.now_s - (waited_s if 0.0 < waited_s <= told.now_s else 0.0)
            self.known[name] = Request(at_s, remote=bool(remote), fetches=bool(remote))
            if not remote:  # its first token is the affair of whoever computes the prompt
                changes.append(Changed(name, at_s, Change.WAITS, 0))
            found = _NAMED.search(rid.decode(errors="replace"))
            if found is not None:
                rooms.append((int(found[1], 16) + int(found[2] or 0)) & WORD)
        while len(self.known) > MAX_REQUESTS:
            self._forget(next(iter(self.known)))
        return changes, rooms

    def compute(self, prompts: Iterable[Prompt]) -> tuple[list[Prompt], list[int]]:
        """Note prompts that are computed.

        Returns:
            They, and the names of those that decode at once, for their KV cache has come.
        """
        computed, remote = [], []
        found = seen = 0
        for prompt in prompts:
            request = self.known.get(prompt.name)
            if request is None:
                far = bool(prompt.flags & Part.REMOTE)
                request = Request(remote=far, fetches=far and bool(prompt.flags & Part.NEW))
                self.known[prompt.name] = request
            request.void = False
            if prompt.flags & Part.NEW and not (request.remote or request.joined):
                found += prompt.before
                seen += prompt.size
            fetched, request.fetches = request.fetches, False
            self.begun.pop(prompt.name, None)
            if fetched and prompt.tokens == 1 and not prompt.flags & Part.CHUNK:
                remote.append(prompt.name)
                continue
            computed.append(prompt)
            if prompt.flags & Part.CHUNK:
                after = prompt.before + prompt.tokens
                self.begun[prompt.name] = max(prompt.size - after, 1), after
            else:
                self.fresh[prompt.name] = None
        if seen:
            self.cached.learn(found, seen)
        return computed, remote

    def preempt(self, queued: Iterable[Queued]) -> None:
        """Note whose prompt was complete, and waits again: all of it is computed again."""
        for name, _, computed in queued:
            if name in self.fresh and not computed:
                del self.fresh[name]
                self.known[name].void = True

    def join(self, told: Scheduled) -> list[Changed]:
        """Those that decode from a launch on: they run, and are not left out of it."""
        other = {*told.out, *(prompt.name for prompt in told.prompts)}
        names = [name for name in self.fresh if name not in other]
        for name in names:
            del self.fresh[name]
        return self.decode(names, told.now_s)

    def decode(self, names: Iterable[int], at_s: float) -> list[Changed]:
        """Note that requests decode."""
        changes = []
        for name in names:
            request = self.known.get(name)
            if request is not None and not request.joined:
                request.joined = True
                first_s = request.first_s
                changes.append(
                    Changed(name, at_s if math.isnan(first_s) else first_s, Change.JOINED, 0)
                )
        return changes

    def first_tokens(
        self, done: Iterable[int], ended: Sequence[Ended], at_s: float
    ) -> list[Changed]:
        """A result is there, and what it made of prompts that were complete with it.

        Args:
            done: Names of their requests.
            ended: What has ended by then: one that was aborted before has no token.
            at_s: When it was there.
        """
        without = {name for name, aborted, tokens in ended if aborted and not tokens}
        changes = []
        for name in done:
            request = self.known.get(name)
            if request is None or request.remote or request.void or name in without:
                continue
            if math.isnan(request.first_s):
                request.first_s = at_s
                changes.append(Changed(name, at_s, Change.FIRST, 1))
        return changes

    def end(self, ended: Iterable[Ended], token_s: float, now_s: float) -> list[Changed]:
        """How requests have ended.

        Args:
            ended: They.
            token_s: When the last result was there in which any decoded; nan before the first.
            now_s: The current time.
        """
        changes = []
        for name, aborted, tokens in ended:
            if name in self._gone:  # told again, likewise
                continue
            self._gone.append(name)
            request = self.known.get(name)
            self._forget(name)
            if request is None:
                # Its arrival is no longer kept, and it decoded since, unless it has no token.
                request = Request(joined=tokens > 0)
            if request.joined:
                at_s = _last_token_s(request, token_s, now_s)
                what = Change.ABORTED if aborted else Change.ENDED
                changes.append(Changed(name, at_s, what, tokens))
            elif math.isnan(request.first_s) and not request.remote:
                changes.append(Changed(name, now_s, Change.GONE, 0))
        return changes

    def wait(self, queued: Iterable[Queued]) -> list[Waiting]:
        """Those that wait, in the engine's order."""
        waiting = []
        for name, size, computed in queued:
            request = self.known.get(name) or Request()
            self.begun.pop(name, None)
            waiting.append(self._waiting(request, size, computed))
        return waiting

    def rests(self) -> list[Waiting]:
        """What is left of prompts of which a part is computed."""
        return [
            Waiting(self.arrived_s(name), left, before)
            for name, (left, before) in self.begun.items()
        ]

    def arrived_s(self, name: int) -> float:
        """When a request came; nan where that was not heard of."""
        request = self.known.get(name)
        return math.nan if request is None else request.arrived_s

    def _waiting(self, request: Request, size: int, computed: int) -> Waiting:
        if request.remote and not request.joined:  # computed elsewhere, and loaded as a whole
            return Waiting(request.arrived_s, size, 0)
        left = max(size - (computed or int(size * self.cached.share)), 1)  # one always is computed
        return Waiting(request.arrived_s, left, size - left)

    def _forget(self, name: int) -> None:
        self.known.pop(name, None)
        self.begun.pop(name, None)
        self.fresh.pop(name, None)


def _last_token_s(request: Request, token_s: float, now_s: float) -> float:
    """When a request that decodes had its last token.

    Args:
        request: The request.
        token_s: When the last result was there in which any decoded; nan before the first. It may
            be from before this one had its first token, and that is its last then.
        now_s: The current time: one whose KV cache came from elsewhere may have had no token yet.
    """
    times_s = [at_s for at_s in (token_s, request.first_s) if not math.isnan(at_s)]
    return max(times_s, default=now_s)
