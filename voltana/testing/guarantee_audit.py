"""Audits of a trace: what docs/guarantee.md states, from what was issued and measured alone.

They share no code with any tracker: the rule, the choice of labels and the account are written
here once more.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voltana.testing.guarantee_program import Issued, Label
from voltana.testing.report import expect
from voltana.values import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.promise import Statement
    from voltana.testing.guarantee_program import Trace

SETTLED = 0.02
ROUNDING = 1e-7


@dataclass(frozen=True, slots=True)
class Scored:
    """What a label counts for: its weight, whether it missed, whether it was certified."""

    weight: float
    missed: bool
    certified: bool


def scored(label: Label) -> Scored | None:
    """What a label counts for by the rule; None if it is not scored."""
    issued, decision = label.issued, label.issued.decision
    forecast, promise = decision.forecast, decision.promise
    counts = (
        not label.duplicate
        and 0 < label.latency_s < math.inf
        and issued.part.quantile < math.inf
        and forecast is not None
        and forecast.margin is not None
        and promise is not None
    )
    if not (counts and forecast and promise and forecast.margin):
        return None
    missed = label.latency_s > issued.bound_s
    certified = decision.status is Status.CERTIFIED
    near = abs(label.clock_mhz / promise.in_force_mhz - 1.0) <= SETTLED
    fits = forecast.mean_at(promise.fastest_mhz) <= decision.budget_s < math.inf
    weight = forecast.margin.weight
    if certified and (near or missed):
        return Scored(weight, missed, certified=True)
    if not (certified or fits):
        return None
    if near:
        return None if missed else Scored(weight, missed=False, certified=False)
    return Scored(weight, missed=False, certified=False) if _hit_elsewhere(label) else None


def _hit_elsewhere(label: Label) -> bool:
    """Whether a label kept the bound of the clock that it ran at, as that was issued."""
    issued, clock_mhz = label.issued, label.clock_mhz
    forecast = issued.decision.forecast
    if not clock_mhz > 0:
        return label.latency_s <= issued.bound_s
    slower = (
        [i for i, mhz in enumerate(forecast.clocks_mhz) if mhz <= clock_mhz] if forecast else []
    )
    if not slower or forecast is None or forecast.margin is None:
        return False
    level_mhz, mean_s = float(forecast.clocks_mhz[slower[-1]]), float(forecast.mean_s[slower[-1]])
    if forecast.margin.part_at(level_mhz).group != issued.part.group:
        return False
    there = dataclasses.replace(issued, mean_s=mean_s * level_mhz / clock_mhz)
    return label.latency_s <= there.bound_s


def certified_implies_the_gate(trace: Trace) -> None:
    """Certified means that the bound fits the budget and the margin may certify."""
    q_cert = trace.statement.q_cert
    for issued in _issued(trace):
        if issued.decision.status is not Status.CERTIFIED:
            continue
        q, bound_s, budget_s = issued.part.quantile, issued.bound_s, issued.decision.budget_s
        seen = f"certified with q = {q:g} (q_cert {q_cert:g}), bound {bound_s:g} of {budget_s:g} s"
        remedy = "Certify with voltana.planning.settle, and issue inf above q_cert."
        expect(q <= q_cert and bound_s <= budget_s, seen, remedy)


def the_margin_stays_in_range(trace: Trace) -> None:
    """Every margin issued is infinite or in [q_lo, q_hi]."""
    low, high = trace.statement.q_lo, trace.statement.q_hi
    for issued in _issued(trace):
        q = issued.part.quantile
        seen = f"q = {q!r} outside [{low:g}, {high:g}]"
        remedy = "Clip to [q_lo, q_hi]."
        expect(q == math.inf or low - ROUNDING <= q <= high + ROUNDING, seen, remedy)


def the_margin_follows_its_rule(trace: Trace) -> None:
    """Every margin issued is that of a replay of the rule over the labels applied before."""
    replay = Replay(trace.statement)
    for event in trace.events:
        if isinstance(event, Label):
            replay.apply(event)
            continue
        part = event.part
        q = replay.quantile(part.group, part.quantile)
        seen = f"q = {part.quantile:g} issued for {part.group!r}, replay {q:g}"
        remedy = "Apply every label once, to its group, in full, as it was issued."
        expect(_near(q, part.quantile), seen, remedy)


def the_bound_holds(trace: Trace) -> None:
    """In every window of every group, certified misses weigh at most alpha of the rest, plus C."""
    statement, replay = trace.statement, Replay(trace.statement)
    total: dict[str, float] = {}
    worst: dict[str, float] = {}
    updates: dict[str, int] = {}
    for event in trace.events:
        if isinstance(event, Issued):
            replay.quantile(event.part.group, event.part.quantile)
            continue
        replay.apply(event)
        found, group = scored(event), event.issued.part.group
        if found is None:
            continue
        excess = found.weight * ((found.missed and found.certified) - statement.alpha)
        updates[group] = updates.get(group, 0) + 1
        total[group] = total.get(group, 0.0) + excess
        worst[group] = max(worst.get(group, 0.0), 0.0) + excess
        constant = statement.constant(replay.first[group], updates[group])
        remedy = "Score as docs/guarantee.md says; mind the head-room of q_hi."
        seen = f"{group!r}: {total[group]:g} over alpha after {updates[group]}, C = {constant:g}"
        expect(total[group] <= constant + ROUNDING, seen, remedy)
        reached = statement.constant(replay.first[group], updates[group], replay.highest[group])
        forgiven = replay.forgiven.get(group, 0.0)
        seen = f"{group!r}: {total[group]:g} over alpha, C = {reached:g} by the highest margin"
        expect(total[group] <= reached + forgiven + ROUNDING, seen, remedy)
        window = statement.window_constant(updates[group])
        seen = f"{group!r}: {worst[group]:g} over alpha in a window, C = {window:g}"
        expect(worst[group] <= window + ROUNDING, seen, remedy)


@dataclass(slots=True)
class Replay:
    """The rule once more: margins by group from the labels applied.

    Attributes:
        statement: Its numbers.
        first: Margin that each group started from.
        highest: The highest one that each has had.
        forgiven: Weight of each that clipping above has cut.
    """

    statement: Statement
    first: dict[str, float] = field(default_factory=dict)
    highest: dict[str, float] = field(default_factory=dict)
    forgiven: dict[str, float] = field(default_factory=dict)
    _now: dict[str, tuple[float, int]] = field(default_factory=dict)
    _pooled: tuple[float, int] | None = None

    def quantile(self, group: str, issued: float) -> float:
        """Margin of a group; the first finite one issued is where all start from."""
        if self._pooled is None:
            if issued == math.inf:
                return math.inf
            self._pooled = (issued, 0)
        if group in self._now:
            return self._now[group][0]
        return min(self._pooled[0], self.statement.q_cert)

    def apply(self, label: Label) -> None:
        """Take in one label."""
        group, found = label.issued.part.group, scored(label)
        self._open(group, label)
        if found is None or self._pooled is None:
            return
        now, most = self._now[group], self.statement.q_hi
        raised, step = now[0] + self._raise(now, found), self.statement.step(now[1])
        self.forgiven[group] = self.forgiven.get(group, 0.0) + max(raised - most, 0.0) / step
        self._now[group] = self._moved(now, found)
        self.highest[group] = max(self.highest[group], self._now[group][0])
        self._pooled = self._moved(self._pooled, found)

    def _open(self, group: str, label: Label) -> None:
        usable = 0 < label.latency_s < math.inf and not label.duplicate
        known = label.issued.part.quantile < math.inf
        if group not in self._now and usable and known and self._pooled is not None:
            self.first[group] = min(self._pooled[0], self.statement.q_cert)
            self.highest[group] = self.first[group]
            self._now[group] = (self.first[group], 0)

    def _raise(self, state: tuple[float, int], found: Scored) -> float:
        return self.statement.step(state[1]) * found.weight * (found.missed - self.statement.alpha)

    def _moved(self, state: tuple[float, int], found: Scored) -> tuple[float, int]:
        moved, s = state[0] + self._raise(state, found), self.statement
        return min(max(moved, s.q_lo), s.q_hi), state[1] + 1


AUDITS: tuple[Callable[[Trace], None], ...] = (
    certified_implies_the_gate,
    the_margin_stays_in_range,
    the_margin_follows_its_rule,
    the_bound_holds,
)
"""Every audit of a trace."""


def audit(trace: Trace) -> None:
    """Run every audit.

    Raises:
        Violation: If one does not hold.
    """
    for check in AUDITS:
        check(trace)


def _issued(trace: Trace) -> list[Issued]:
    return [event for event in trace.events if isinstance(event, Issued)]


def _near(one: float, other: float) -> bool:
    return one == other or abs(one - other) <= ROUNDING
