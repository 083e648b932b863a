"""Promises to requests: which are promised at arrival, and the account of what became of them.

docs/guarantee-requests.md states and proves what follows. One of these keeps the promises
of one instance about one threshold: TTFT of a prefill instance, mean ITL of a decode one.
"""

from __future__ import annotations

import heapq
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from voltana.errors import invalid
from voltana.predictors.conformal.quantile_tracker import (
    COUNTED_CERTIFIED,
    ROUNDING,
    Counted,
    QuantileTracker,
    read_number,
)
from voltana.promise import Statement, bound_on
from voltana_actuatord.quick import tuple_maker

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

REQUESTS = Statement(alpha=0.01, gamma=0.05, q_cert=0.4, delay=511)
"""One promised request in a hundred may miss; at most 512 are promised at the same time."""

FIRST = 0.15
"""Margin to start from."""

OFFSET_S = 0.005


MOST_OPEN = 1024
"""Requests that are followed at the same time; what arrives beyond them is not promised."""


class Open(NamedTuple):
    """A request that is under way, with what was promised as it was then.

    Attributes:
        promised: Whether it was promised to keep its threshold; else only the margin kept it from
            that, or because as many are promised as may be.
        updates: Labels that were scored before it.
        begun_s: When what the threshold is about began; nan where whoever ends it knows.
        threshold_s: The threshold.
        deadline_s: When it has missed if nothing was heard; inf for none.
    """

    promised: bool
    updates: int
    begun_s: float
    threshold_s: float
    deadline_s: float


make_open = tuple_maker(Open)


class PromisedRequests:
    """Promises requests at arrival, and scores each once.

    Args:
        statement: The numbers; K = `delay` + 1 requests are promised at the same time at most.
        first: Margin to start from, a share of what is expected.

    Attributes:
        statement: As given.
        arrived: Requests that arrived.
        promised: Those that were promised.
        scored: Promised ones that were scored.
        missed: Promised ones that missed their threshold.
        withdrawn: Promised ones that were aborted before anything of theirs could be scored.
        lost: Promised ones whose end was never told.
        most_in_flight: Most that were promised at the same time.
        highest: Highest margin so far.

    Raises:
        ConfigError: If the steps decay, or `first` may not certify.
    """

    def __init__(self, statement: Statement = REQUESTS, first: float = FIRST) -> None:
        if statement.decay:
            raise invalid("decay", statement.decay, "0", "Steps of requests are fixed.")
        if not statement.q_lo <= first <= statement.q_cert:
            raise invalid("first", first, "from q_lo to q_cert", "0.15 is the default.")
        self.statement = statement
        self._tracker = QuantileTracker(statement, first)
        self._open: dict[Hashable, Open] = {}
        self._written: dict[Hashable, str] = {}
        self._deadlines: list[tuple[float, int, Hashable]] = []
        self._pushed = 0
        self._in_flight = 0
        self.arrived = self.promised = self.scored = self.missed = self.most_in_flight = 0
        self.withdrawn = self.lost = 0
        self.highest = first

    def __contains__(self, key: Hashable) -> bool:
        """Whether a request is under way, and its end is scored."""
        return key in self._open

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
        begun_s: float = math.nan,
        threshold_s: float = math.inf,
    ) -> bool:
        """Take a request; whether it is promised to take no longer than `left_s`.

        Args:
            key: Names it; one that is under way already is not promised again.
            expected_s: What is expected at the fastest permitted clock; inf where unknown.
            left_s: What its threshold leaves.
            now_s: The current time, from which a deadline of `left_s` counts; nan sets none: who
                scores it knows when it has missed.
            begun_s: See `Open`.
            threshold_s: See `Open`.
        """
        if key in self._open:
            return self._open[key].promised
        self.arrived += 1
        if not 0.0 <= expected_s <= left_s < math.inf or len(self._open) >= MOST_OPEN:
            return False
        tracker, statement = self._tracker, self.statement
        margin = tracker.quantile
        promised = (
            margin <= statement.q_cert
            and bound_on(expected_s, margin, OFFSET_S) <= left_s
            and self._in_flight <= statement.delay
        )
        deadline_s = math.inf if not promised or math.isnan(now_s) else now_s + left_s
        found = make_open(promised, tracker.updates, begun_s, threshold_s, deadline_s)
        self._follow(key, found)
        self.promised += promised
        return promised

    def end(self, key: Hashable, *, missed: bool) -> None:
        """Score a request that has its token, or was aborted; one that was scored is left alone."""
        found = self._take(key)
        if found is None or (missed and not found.promised):
            return
        tracker, promised = self._tracker, found.promised
        self._in_flight -= promised
        self.scored += promised
        self.missed += missed
        counts_as = COUNTED_CERTIFIED if promised else Counted.BLOCKED
        tracker.update(missed=missed, weight=1.0, counts_as=counts_as, issued_at=found.updates)
        margin, highest = tracker.quantile, self.highest
        self.highest = margin if margin > highest else highest

    def late(self, key: Hashable, at_s: float, *, parts: int = 1) -> bool:
        """Whether the time since a request began, divided among `parts`, is above its threshold.

        One that ended before it began is late: the times cannot be believed.
        """
        found = self._open.get(key)
        return found is not None and not 0.0 <= (at_s - found.begun_s) / parts <= found.threshold_s

    def begin(self, key: Hashable, at_s: float) -> None:
        """Say when what the threshold is about began, where it was not known at arrival."""
        found = self._take(key)
        if found is not None:
            promised, updates, _, threshold_s, deadline_s = found
            self._open[key] = make_open(promised, updates, at_s, threshold_s, deadline_s)

    def withdraw(self, key: Hashable) -> None:
        """Let a request go that was aborted before anything could be scored: no hit and no miss."""
        found = self._take(key)
        if found is not None and found.promised:
            self._in_flight -= 1
            self.withdrawn += 1

    def expire(self, now_s: float) -> None:
        """Score every promised request whose deadline has passed: it has missed."""
        while self._deadlines and self._deadlines[0][0] < now_s:
            deadline = heapq.heappop(self._deadlines)
            if self._waits(deadline):
                self.end(deadline[2], missed=True)

    def lose(self) -> None:
        """Let all go that are under way: their ends cannot be known, and may have been misses."""
        self.lost += self._in_flight
        self._in_flight = 0
        self._open.clear()
        self._written.clear()
        self._deadlines.clear()

    def presume(self, key: Hashable) -> None:
        """Count a request as promised and lost, if nothing is promised to it now.

        Someone may have promised who was killed before it was written down.
        """
        found = self._open.get(key)
        if found is None or not found.promised:
            self._take(key)
            self.promised += 1
            self.lost += 1

    def presume_many(self, count: int) -> None:
        """Count so many more requests as promised and lost, of which nobody knows a name."""
        self.arrived += count
        self.promised += count
        self.lost += count

    def constant(self) -> float:
        """C of P1, for as many as were in flight so far."""
        statement = self.statement
        constant = (statement.q_cert - self._tracker.first) / statement.step(0)
        return constant + (1.0 - statement.alpha) * self.most_in_flight

    def bound(self) -> float:
        """Most promised requests that can have missed by now, those that were lost included."""
        tracked = self._tracker.account
        labels = tracked.certified + tracked.blocked
        most = self.statement.alpha * labels + self.constant() + tracked.forgiven + self.lost
        return most + ROUNDING

    def together(self) -> float:
        """Most misses in a row that took the margin beyond what certifies: M of P3."""
        beyond = max(self.highest - self.statement.q_cert, 0.0)
        return beyond / (self.statement.step(0) * (1.0 - self.statement.alpha))

    def account(self) -> dict[str, float]:
        """The account, its bound included."""
        tracked = self._tracker.account
        return {
            "arrived": self.arrived,
            "promised": self.promised,
            "scored": self.scored,
            "kept": self.scored - self.missed,
            "missed": self.missed,
            "blocked": tracked.blocked,
            "withdrawn": self.withdrawn,
            "lost": self.lost,
            "forgiven": tracked.forgiven + self.lost,
            "in_flight": self._in_flight,
            "most_in_flight": self.most_in_flight,
            "together": self.together(),
            "constant": self.constant(),
            "bound": self.bound(),
        }

    def to_json(self) -> str:
        """All of it as a JSON table, for keys that are numbers; `restore` reads it.

        Cheap enough for every iteration: what is under way is written down once.
        """
        values = {
            "statement": _numbers(self.statement),
            "tracker": self._tracker.to_dict(),
            "counts": {name: getattr(self, name) for name in _COUNTS},
            "highest": self.highest,
        }
        followed = ",".join([self._text(key, found) for key, found in self._open.items()])
        return f'{json.dumps(values, separators=(",", ":"))[:-1]},"open":[{followed}]}}'

    @classmethod
    def restore(cls, values: Mapping[str, Any]) -> PromisedRequests:
        """Read what `to_json` wrote.

        Raises:
            KeyError: If a key is missing.
            TypeError: If a value is of another kind.
            ValueError: If a number is none that can have been written.
        """
        statement = Statement(**values["statement"])
        made = cls(statement, read_number(values["tracker"]["first"], statement.q_lo))
        made._read(values)
        return made

    def _read(self, values: Mapping[str, Any]) -> None:
        tracker = QuantileTracker.restore(self.statement, values["tracker"])
        counts = {name: int(read_number(values["counts"][name], 0)) for name in _COUNTS}
        followed = [(key, _read_open(found)) for key, *found in values["open"]]
        in_flight = sum(found.promised for _, found in followed)
        ended = counts["scored"] + counts["withdrawn"] + counts["lost"]
        if (
            counts["promised"] != ended + in_flight
            or not counts["missed"] <= counts["scored"]
            or not in_flight <= counts["most_in_flight"] <= self.statement.delay + 1
            or len(dict(followed)) != len(followed)
        ):
            raise ValueError(f"the counts {counts} and {in_flight} in flight do not fit each other")
        self.highest = read_number(values["highest"], tracker.first)
        self._tracker = tracker
        for name, count in counts.items():
            setattr(self, name, count)
        for key, found in followed:
            self._follow(key, found)

    def _take(self, key: Hashable) -> Open | None:
        if self._written:
            self._written.pop(key, None)
        return self._open.pop(key, None)

    def _text(self, key: Hashable, found: Open) -> str:
        """A request as JSON; remembered until it is taken out, which every change begins with."""
        text = self._written.get(key)
        if text is None:
            text = self._written[key] = json.dumps([key, *map(_bounded, found)])
        return text

    def _follow(self, key: Hashable, found: Open) -> None:
        self._open[key] = found
        self._in_flight += found.promised
        now, most = self._in_flight, self.most_in_flight
        self.most_in_flight = now if now > most else most
        if found.deadline_s < math.inf:
            self._pushed += 1
            heapq.heappush(self._deadlines, (found.deadline_s, self._pushed, key))
            if len(self._deadlines) > 2 * MOST_OPEN:  # far ones, of requests that have ended
                self._deadlines = [one for one in self._deadlines if self._waits(one)]
                heapq.heapify(self._deadlines)

    def _waits(self, deadline: tuple[float, int, Hashable]) -> bool:
        """Whether a deadline is still that of a request under way."""
        found = self._open.get(deadline[2])
        return found is not None and found.deadline_s == deadline[0]


_COUNTS = (
    "arrived", "promised", "scored", "missed", "withdrawn", "lost", "most_in_flight",
)  # fmt: skip


def _numbers(statement: Statement) -> dict[str, float]:
    return {"alpha": statement.alpha, "gamma": statement.gamma, "q_lo": statement.q_lo,
            "q_cert": statement.q_cert, "delay": statement.delay}  # fmt: skip


def _bounded(value: float) -> float | None:
    """JSON has neither nan nor inf."""
    return value if math.isfinite(value) else None


def _read_open(values: list[Any]) -> Open:
    """What `to_json` wrote of a request.

    Raises:
        TypeError: If a value is of another kind.
        ValueError: If it is none that can have been written.
    """
    promised, updates, begun_s, threshold_s, deadline_s = values
    if not isinstance(promised, bool):
        raise TypeError(f"{promised!r} is neither true nor false")
    return Open(
        promised,
        int(read_number(updates, 0)),
        math.nan if begun_s is None else read_number(begun_s, -math.inf),
        math.inf if threshold_s is None else read_number(threshold_s, 0.0),
        math.inf if deadline_s is None else read_number(deadline_s, -math.inf),
    )
