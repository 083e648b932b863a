"""The one queue of requests that are held back before their instances are chosen.

A router may answer with a `Deferral` where sending a request on does more harm than its waiting.
What is deferred waits here, first come, first served: only the first in line is asked about again,
when a request completes and when its deferral ends, and those that come meanwhile stand behind it.
Nobody waits longer than its deadline allows: a request whose slack is used up goes, wherever a
router sends what must not be deferred, and so does the first in line where the line is full. But
whoever goes then makes others late: where nothing is lacking than room, one that would have found
the place. So one that is late in any case waits on, behind all that are not, as far as its router
lets requests be late for it (`Deferral.late_share`). The simulated dispatcher and the serving
router run this same code.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from voltana.cluster.admission import Line
from voltana.cluster.holding_rates import ArrivalRate, LateShare, PlaceRate
from voltana.errors import RoutingError, invalid
from voltana.values import Deferral, Request, Reservation

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.ports import TimeSource

_T = TypeVar("_T")

MOST_HELD = 1024
"""Requests that may wait. One more sends the first of them on: none is ever turned away here."""

LATE_S = 30.0
"""For so long one waits on that is late in any case: about as long as people wait for an answer."""

LEFT_SHARE = 0.5
"""And for such a share of the time that its client leaves at most: the rest is for its answer."""

BEHIND = "behind others that wait"
"""Why a request waits that was not asked about."""

JOINED_SHARE = 0.5
"""Share of its slack that a request may expect to wait when it joins the line: beyond what a pool
can serve for long, those in excess lose less where they go at once."""

SOONEST_S = 1e-3
"""No deferral is shorter, so that a router cannot keep its dispatcher busy."""


@dataclass(slots=True, kw_only=True, eq=False)
class Held(Generic[_T]):
    """A request that waits.

    Attributes:
        request: What it is.
        since_s: Since when.
        leave_s: When it has to go at the latest, to keep its deadline, or as it waits for too long.
        send: Called with what was chosen for it.
        late_s: How long it may wait when it is late in any case.
    """

    request: Request
    since_s: float
    leave_s: float
    send: Callable[[_T], None]
    late_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class HoldingCounts:
    """What a queue has done so far.

    Attributes:
        held: Requests that had to wait.
        overdue: Those of them that could wait no longer.
        late: Those that waited on though they were late in any case.
        cancelled: Those that were taken out before they went.
        waited_s: Time that all of them waited together, those that wait still left out.
        longest_s: The longest wait.
        reasons: Deferrals by their reason, one for each request that had to wait.
    """

    held: int = 0
    overdue: int = 0
    late: int = 0
    cancelled: int = 0
    waited_s: float = 0.0
    longest_s: float = 0.0
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)

    def note(self, reason: str) -> None:
        """A request has to wait."""
        self.held += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def note_wait(self, waited_s: float) -> None:
        """A request waits no longer."""
        self.waited_s += waited_s
        self.longest_s = max(self.longest_s, waited_s)


class HoldingQueue(Generic[_T]):
    """Sends requests on at once, or when their routers want them.

    Args:
        choose: Asks the routers: what a request is to be sent to, or a `Deferral`. A request whose
            `Request.slack_s` is 0 must not be deferred.
        slack_s: How long a request may be held from now on, in s, behind those that wait; asked for
            what is deferred only. Below 0 where it is late in any case; 0, or not finite, where it
            may not be held or that is unknown: such a request goes at once.
        time: Source of time.
        call_later: Calls a function after some seconds.
        most: Requests that may wait.
        late_s: How long requests may wait that are late in any case, as far as their router lets
            them; 0 where waiting holds what others need, as a computed KV cache.

    Attributes:
        counts: What it has done so far.

    Raises:
        ConfigError: If `most` is below 1, or `late_s` is no time.
    """

    def __init__(
        self,
        choose: Callable[[Request], _T | Deferral],
        slack_s: Callable[[Request, Line], float],
        *,
        time: TimeSource,
        call_later: Callable[[float, Callable[[], None]], object],
        most: int = MOST_HELD,
        late_s: float = 0.0,
    ) -> None:
        if most < 1:
            raise invalid("most", most, "1 or more", "1024 is usual.")
        if not 0 <= late_s < math.inf:
            raise invalid("late_s", late_s, "0 s or more, and finite", f"{LATE_S:g} s is usual.")
        self._choose = choose
        self._slack_s = slack_s
        self._time = time
        self._call_later = call_later
        self._most, self._late_s = most, late_s
        self._line: deque[Held[_T]] = deque()
        self._tokens = 0  # of the prompts in it
        self._late: deque[Held[_T]] = deque()
        self._due_s = math.inf  # of the timer that counts; those of later times are out of date
        self._woken = self._asking = False
        self._may_be_late = 0.0  # share of all requests, as the last deferral said
        self._late_share = LateShare()
        self._places = PlaceRate()
        self._arrivals = ArrivalRate()
        self.counts = HoldingCounts()

    def __len__(self) -> int:
        return len(self._line) + len(self._late)

    @property
    def oldest_s(self) -> float:
        """How long the one has waited that waits for longest; 0 where nobody does."""
        first = [line[0].since_s for line in (self._line, self._late) if line]
        return self._time.now_s() - min(first) if first else 0.0

    def offer(
        self, request: Request, send: Callable[[_T], None], *, left_s: float = math.inf
    ) -> Held[_T] | None:
        """A request has arrived.

        Args:
            request: What it is.
            send: Called with what was chosen for it, now or later, once at most.
            left_s: Time until its client gives up; it waits on late for half of that at most.

        Returns:
            None where it was sent on at once, else what `cancel` takes.
        """
        now_s = self._time.now_s()
        self._arrivals.note(request.prompt_tokens, now_s)
        self._late_share.came(now_s)
        for_s, reason = math.inf, BEHIND
        if not self._line:
            choice = self._ask(_with_slack(request, math.inf))
            if not isinstance(choice, Deferral):
                send(choice)
                return None
            for_s, reason = choice.for_s, choice.reason
        slack_s = self._slack_s(request, self._described(now_s))
        expected_s = self._places.expected_s(len(self._line) + 1, now_s)
        held = Held(
            request=request,
            since_s=now_s,
            leave_s=now_s + slack_s,
            send=send,
            late_s=min(self._late_s, LEFT_SHARE * left_s),
        )
        late, may_wait = slack_s < 0, math.isfinite(slack_s) and slack_s != 0
        in_excess = late or expected_s > JOINED_SHARE * slack_s
        # Who stands in line before one that comes in excess may be late as well.
        if not may_wait or (in_excess and not self._may_wait_on(held, len(self._line))):
            send(self._forced(request))
            return None
        self.counts.note(reason)
        if late:
            self._wait_on(held)
        else:
            self._line.append(held)
            self._tokens += request.prompt_tokens
            self._places.held(now_s)
        self._look_again(min(_sensible_s(for_s), held.leave_s - now_s))
        if len(self) > self._most:
            self._send_first()
        return held

    def _described(self, now_s: float) -> Line:
        """Those that wait, who are to be served before whoever joins, and what arrives."""
        requests_per_s, tokens_per_s = self._arrivals.per_s(now_s)
        return Line(
            ahead=Reservation(requests=len(self._line), prompt_tokens=self._tokens),
            requests_per_s=requests_per_s,
            prompt_tokens_per_s=tokens_per_s,
        )

    def may_hold_s(self) -> float:
        """How long a request like those that come may be held now; 0 where that is unknown."""
        now_s = self._time.now_s()
        line = self._described(now_s)
        if not line.requests_per_s:
            return 0.0
        prompt_tokens = round(line.prompt_tokens_per_s / line.requests_per_s)
        usual = Request(request_id=-1, arrived_at_s=now_s, prompt_tokens=prompt_tokens)
        slack_s = self._slack_s(usual, line)
        return slack_s if 0.0 < slack_s < math.inf else 0.0

    def cancel(self, held: Held[_T]) -> bool:
        """Nobody wants a request any more; whether it still waited."""
        if held not in self._line and held not in self._late:
            return False
        self._take_out(held)
        self.counts.cancelled += 1
        self.counts.note_wait(self._time.now_s() - held.since_s)
        self.wake()  # another one may be the first in line
        return True

    def wake(self) -> None:
        """A request has completed: ask about the first that waits, once all of that is noted."""
        if (self._line or self._late) and not self._woken:
            self._woken = True
            self._call_later(0.0, self._wake_up)

    def _wake_up(self) -> None:
        self._woken = False
        self._look()

    def _look(self) -> None:
        """Send on what can wait no longer, and the first in line as long as its router wants it."""
        if self._asking:  # `send` may end a request
            return
        self._asking = True
        try:
            now_s = self._time.now_s()
            for held in [held for held in self._line if held.leave_s <= now_s]:
                if held not in self._line:  # sending another one has cancelled it
                    continue
                self._take_out(held)
                self.counts.overdue += 1
                if self._may_wait_on(held):
                    self._wait_on(held)
                else:
                    self._send(held)
            for held in [held for held in self._late if held.leave_s <= now_s]:
                if held in self._late:
                    self._take_out(held)
                    self._send(held)
            while self._line and self._goes(self._line[0], now_s):
                self._places.found(now_s)
            while self._late and not self._line and self._goes(self._late[0], now_s):
                pass
        finally:
            self._asking = False

    def _goes(self, first: Held[_T], now_s: float) -> bool:
        """Whether the first of a line is wanted now, and has been sent."""
        choice = self._ask(_waited(first, now_s))
        if isinstance(choice, Deferral):
            next_s = min(held.leave_s for held in (*self._line, *self._late)) - now_s
            self._look_again(min(_sensible_s(choice.for_s), next_s))
            return False
        self._take_out(first)
        self.counts.note_wait(now_s - first.since_s)
        first.send(choice)
        return True

    def _may_wait_on(self, held: Held[_T], before: int = 0) -> bool:
        """Whether one may wait on that is late in any case, and so many others."""
        return held.late_s > 0.0 and self._late_share.leaves(before + 1, self._may_be_late)

    def _wait_on(self, held: Held[_T]) -> None:
        """It does, behind all that are not late."""
        held.leave_s = self._time.now_s() + held.late_s
        self._late.append(held)
        self._late_share.waits_on()
        self.counts.late += 1

    def _look_again(self, for_s: float) -> None:
        """Look at the line again after `for_s`, unless it is looked at before."""
        due_s = self._time.now_s() + for_s
        if self._due_s <= due_s:
            return
        self._due_s = due_s

        def due() -> None:
            if due_s == self._due_s:
                self._due_s = math.inf
                self._look()

        self._call_later(for_s, due)

    def _ask(self, request: Request) -> _T | Deferral:
        choice = self._choose(request)
        if isinstance(choice, Deferral):
            share = choice.late_share  # of any user's router
            self._may_be_late = share if isinstance(share, int | float) else 0.0
        return choice

    def _forced(self, request: Request) -> _T:
        choice = self._choose(_with_slack(request, 0.0))
        if isinstance(choice, Deferral):
            raise RoutingError(
                f"request {request.request_id} was deferred ({choice.reason}) with slack_s = 0: "
                "must be sent to an instance then. Look at Request.slack_s before deferring."
            )
        return choice

    def _send_first(self) -> None:
        """Send the first on, as too many wait: of those that are late, where there are any."""
        held = (self._late or self._line)[0]
        self.counts.overdue += not self._late
        self._take_out(held)
        self._send(held)

    def _send(self, held: Held[_T]) -> None:
        """Send one on that is in no line any more, whatever its router wants."""
        waited_s = self._time.now_s() - held.since_s
        self.counts.note_wait(waited_s)
        held.send(self._forced(dataclasses.replace(held.request, waited_s=waited_s)))

    def _take_out(self, held: Held[_T]) -> None:
        """One stands in its line no longer."""
        if held in self._late:
            self._late.remove(held)
            return
        self._line.remove(held)
        self._tokens -= held.request.prompt_tokens
        if not self._line:
            self._places.emptied(self._time.now_s())


def _with_slack(request: Request, slack_s: float) -> Request:
    if request.slack_s == slack_s:
        return request
    return dataclasses.replace(request, slack_s=slack_s)


def _waited(held: Held[_T], now_s: float) -> Request:
    """What routers are shown of one that waits."""
    return dataclasses.replace(
        held.request, slack_s=held.leave_s - now_s, waited_s=now_s - held.since_s
    )


def _sensible_s(for_s: float) -> float:
    """What a router asks for, as far as it makes sense: no nan, and not too soon."""
    return for_s if for_s >= SOONEST_S else SOONEST_S
