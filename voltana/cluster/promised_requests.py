"""Promises to requests: which are promised at arrival, and the account of what became of them.

docs/guarantee.md, "Promised requests", states and proves what follows. One of these keeps the
promises of one instance about one threshold: TTFT of a prefill instance, mean ITL of a decode one.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, NamedTuple

from voltana.errors import invalid
from voltana.predictors.conformal.quantile_tracker import Counted, QuantileTracker
from voltana.promise import Statement, bound_on

if TYPE_CHECKING:
    from collections.abc import Hashable

REQUESTS = Statement(alpha=0.01, gamma=0.05, q_cert=0.4, delay=511)
"""One promised request in a hundred may miss; at most 512 are promised at the same time."""

FIRST = 0.15
"""Margin to start from."""

OFFSET_S = 0.005


class Open(NamedTuple):
    """A request that is under way.

    Attributes:
        promised: Whether it was promised to keep its threshold.
        blocked: Whether it was not for the margin alone, or because as many are promised as may be.
        updates: Labels that were scored before it.
    """

    promised: bool
    blocked: bool
    updates: int


class PromisedRequests:
    """Promises requests at arrival, and scores each once.

    Args:
        statement: The numbers; K = `delay` + 1 requests are promised at the same time at most.
        first: Margin to start from, a share of what is expected.

    Attributes:
        arrived: Requests that arrived.
        promised: Those that were promised.
        scored: Promised ones that were scored.
        missed: Promised ones that missed their threshold.
        most_in_flight: Most that were promised at the same time.

    Raises:
        ConfigError: If the steps decay, or `first` may not certify.
    """

    def __init__(self, statement: Statement = REQUESTS, first: float = FIRST) -> None:
        if statement.decay:
            raise invalid("decay", statement.decay, "0", "Steps of requests are fixed.")
        if not statement.q_lo <= first <= statement.q_cert:
            raise invalid("first", first, "from q_lo to q_cert", "0.15 is the default.")
        self._statement = statement
        self._tracker = QuantileTracker(statement, first)
        self._open: dict[Hashable, Open] = {}
        self._deadlines: list[tuple[float, int, Hashable]] = []
        self._in_flight = 0
        self.arrived = self.promised = self.scored = self.missed = self.most_in_flight = 0

    @property
    def in_flight(self) -> int:
        """Promised requests that are not scored yet."""
        return self._in_flight

    @property
    def margin(self) -> float:
        """The margin now."""
        return self._tracker.quantile

    def arrive(
        self,
        key: Hashable,
        *,
        expected_s: float,
        left_s: float,
        now_s: float = math.nan,
    ) -> bool:
        """Take a request; whether it is promised to take no longer than `left_s`.

        Args:
            key: Names it; one that is under way already is not promised again.
            expected_s: What is expected at the fastest permitted clock; inf where unknown.
            left_s: What its threshold leaves.
            now_s: The current time, from which a deadline of `left_s` counts; nan sets none: who
                scores it knows when it has missed.
        """
        if key in self._open:
            return self._open[key].promised
        self.arrived += 1
        margin = self._tracker.quantile
        could = 0.0 <= expected_s <= left_s < math.inf
        promised = (
            could
            and margin <= self._statement.q_cert
            and bound_on(expected_s, margin, OFFSET_S) <= left_s
            and self._in_flight <= self._statement.delay
        )
        self._open[key] = Open(promised, could and not promised, self._tracker.updates)
        if promised:
            self.promised += 1
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            if not math.isnan(now_s):
                heapq.heappush(self._deadlines, (now_s + left_s, self.arrived, key))
        return promised

    def end(self, key: Hashable, *, missed: bool) -> None:
        """Score a request that has its token, or was aborted; one that was scored is left alone."""
        found = self._open.pop(key, None)
        if found is None:
            return
        if found.promised:
            self._score(found, missed=missed)
        elif found.blocked and not missed:
            self._tracker.update(
                missed=False, weight=1.0, counts_as=Counted.BLOCKED, issued_at=found.updates
            )

    def expire(self, now_s: float) -> None:
        """Score every promised request whose deadline has passed: it has missed."""
        while self._deadlines and self._deadlines[0][0] < now_s:
            _, _, key = heapq.heappop(self._deadlines)
            if key in self._open:
                self.end(key, missed=True)

    def bound(self) -> float:
        """Most promised requests that can have missed by now."""
        statement, tracked = self._statement, self._tracker.account
        constant = (statement.q_cert - self._tracker.first) / statement.step(0)
        in_flight = (1.0 - statement.alpha) * self.most_in_flight
        labels = tracked.certified + tracked.blocked
        return statement.alpha * labels + constant + in_flight + tracked.forgiven

    def account(self) -> dict[str, float]:
        """The account, its bound included."""
        tracked = self._tracker.account
        return {
            "arrived": self.arrived,
            "promised": self.promised,
            "scored": self.scored,
            "missed": self.missed,
            "blocked": tracked.blocked,
            "forgiven": tracked.forgiven,
            "in_flight": self._in_flight,
            "most_in_flight": self.most_in_flight,
            "bound": self.bound(),
        }

    def _score(self, found: Open, *, missed: bool) -> None:
        self._in_flight -= 1
        self.scored += 1
        self.missed += missed
        self._tracker.update(
            missed=missed, weight=1.0, counts_as=Counted.CERTIFIED, issued_at=found.updates
        )
