"""Programs that attack a guarantee: what happens to each label, relative to what was issued.

Latencies are not drawn but made from the bound that was issued, for a guarantee has to hold
against whatever knows it. A program is a row of stretches; running it yields a trace of labels in
the order in which they were applied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from voltana.planning import lowest_safe_decision, settle
from voltana.testing import samples
from voltana.values import Decision, Load, Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Controller, Predictor
    from voltana.promise import MarginPart, Statement

MODES = (
    "above", "below", "exact", "huge", "zero", "miss if certified", "miss when low", "trap",
    "unsettled", "unsettled misses", "broken",
)  # fmt: skip
"""Just above the bound; just below; on it; far above; nothing; a miss whenever certified; a miss
whenever the margin is low; between the issued and the current bound; hits at a clock that was not
predicted for, mixed with misses at that one and at the one in force; misses there
alone; no number at all."""

UNSETTLED = ("unsettled", "unsettled misses")

ORDERS = ("at once", "in bursts", "latest first", "overtaking")
"""How labels come back: `IN_FLIGHT` of them wait at most."""

IN_FLIGHT = 4

BUDGETS = (0.9, 1.1, 1.6, 2.5, 8.0)
"""Budgets as shares of the mean at the fastest clock: overload, tight, slack."""

LOADS = (
    Load.decode(64, 40_000),
    Load.decode(8, 4_000),
    Load.decode(192, 90_000),
    Load.prefill([(128, 0)]),
)
"""Loads of several groups and weights."""

LEVELS_MHZ = (600.0, 810.0, 1005.0, 1200.0, 1410.0)


@runtime_checkable
class Guaranteed(Protocol):
    """A predictor that says what it guarantees."""

    statement: Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Some iterations of one kind.

    Attributes:
        mode: One of `MODES`.
        length: Iterations.
        load: Index into `LOADS`.
        budget: The budget over the mean at the fastest clock.
        order: One of `ORDERS`.
        twice: Whether every label comes a second time.
    """

    mode: str
    length: int = 10
    load: int = 0
    budget: float = 2.5
    order: str = "at once"
    twice: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A decision in flight, and what its label will be."""

    decision: Decision
    part: MarginPart
    mean_s: float
    stretch: Stretch
    index: int

    @property
    def bound_s(self) -> float:
        """The bound as issued; inf while nothing is known."""
        return self.bound_with(self.part.quantile)

    def bound_with(self, quantile: float) -> float:
        """What the bound would be with another margin."""
        margin = self.decision.forecast.margin if self.decision.forecast else None
        offset_s = margin.offset_s if margin else 0.0
        return self.mean_s + quantile * (self.mean_s + offset_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A label as it was applied."""

    issued: Issued
    latency_s: float
    clock_mhz: float
    duplicate: bool = False


@dataclass(slots=True)
class Trace:
    """What happened, in order: decisions as issued (`Issued`) and labels as applied (`Label`)."""

    statement: Statement
    events: list[Issued | Label] = field(default_factory=list)

    @property
    def labels(self) -> list[Label]:
        """Labels in the order in which they were applied."""
        return [event for event in self.events if isinstance(event, Label)]


class Run:
    """One predictor under a program, with the loop's settling between them.

    Args:
        predictor: Issues margins.
        controller: Decides; None for the lowest safe level.

    Attributes:
        trace: What happened so far.
    """

    def __init__(self, predictor: Predictor, controller: Controller | None = None) -> None:
        if not isinstance(predictor, Guaranteed):
            raise TypeError(f"{type(predictor).__name__} has no statement")
        self.trace = Trace(predictor.statement)
        self._predictor = predictor
        self._controller = controller
        self._levels = samples.clocks(1) * 0.0 + LEVELS_MHZ
        self._waiting: list[Issued] = []
        self._sequence = 0

    def play(self, program: Sequence[Stretch]) -> Trace:
        """Run `program`, then let everything in flight arrive."""
        for stretch in program:
            for index in range(stretch.length):
                self.issue(stretch, index)
                if stretch.order == "at once" or len(self._waiting) >= IN_FLIGHT:
                    self.deliver(stretch.order)
        self.deliver("in bursts")
        return self.trace

    def issue(self, stretch: Stretch, index: int = 0) -> None:
        """Decide one iteration."""
        load = LOADS[stretch.load]
        self._sequence += 1
        held_back = stretch.mode in UNSETTLED
        proposal = self._propose(load, stretch)
        decision = settle(
            proposal,
            clock_mhz=min(max(proposal.clock_mhz, LEVELS_MHZ[0]), LEVELS_MHZ[-1]),
            achieved_mhz=LEVELS_MHZ[1] if held_back else LEVELS_MHZ[-1],
            fastest_mhz=LEVELS_MHZ[-1],
            issuer="program",
            sequence=self._sequence,
        )
        forecast, promise = decision.forecast, decision.promise
        if forecast is None or promise is None or forecast.margin is None:
            return
        at, factor = forecast.standing_for(promise.in_force_mhz)
        issued = Issued(
            decision=decision,
            part=forecast.margin.part_at(float(forecast.clocks_mhz[at])),
            mean_s=float(forecast.mean_s[at]) * factor,
            stretch=stretch,
            index=index,
        )
        self.trace.events.append(issued)
        self._waiting.append(issued)

    def deliver(self, order: str) -> None:
        """Let everything in flight arrive."""
        waiting, self._waiting = self._waiting, []
        if order == "latest first":
            waiting.reverse()
        elif order == "overtaking":
            waiting = waiting[1::2] + waiting[::2]
        for issued in waiting:
            latency_s, clock_mhz = self._label(issued)
            self._apply(issued, latency_s, clock_mhz, duplicate=False)
            if issued.stretch.twice:
                self._apply(issued, latency_s, clock_mhz, duplicate=True)

    def _propose(self, load: Load, stretch: Stretch) -> Decision:
        if self._controller is not None:
            return self._controller.decide(samples.observation(load, 0.05 * self._sequence))
        forecast = self._predictor.forecast(load, self._levels)
        budget_s = stretch.budget * float(forecast.mean_s[-1])
        if stretch.mode not in UNSETTLED:
            return lowest_safe_decision(forecast, budget_s)
        clock_mhz = float(forecast.clocks_mhz[-1])
        return Decision(clock_mhz=clock_mhz, reason="fastest", forecast=forecast, budget_s=budget_s)

    def _label(self, issued: Issued) -> tuple[float, float]:
        """Latency and clock of a label: settled unless its mode says otherwise."""
        decision, promise, mode = issued.decision, issued.decision.promise, issued.stretch.mode
        in_force_mhz = promise.in_force_mhz if promise else decision.clock_mhz
        bound_s = issued.bound_s
        if bound_s == math.inf:
            return issued.mean_s * 1.05, in_force_mhz
        elsewhere = mode == "unsettled misses" or (mode == "unsettled" and issued.index % 6)
        clock_mhz = decision.clock_mhz if elsewhere else in_force_mhz
        above_s = bound_s * (1 + 1e-9)
        fixed = {"exact": bound_s, "huge": bound_s * 1e3, "zero": 1e-9}
        if mode in fixed:
            return fixed[mode], clock_mhz
        if mode == "broken" and issued.index % 3 == 0:
            return math.nan, clock_mhz
        if mode == "trap":
            return self._between(issued, above_s), clock_mhz
        return (above_s if _misses(issued) else bound_s * (1 - 1e-9)), clock_mhz

    def _between(self, issued: Issued, above_s: float) -> float:
        """Between the issued and the current bound, where scoring anew would err."""
        load = LOADS[issued.stretch.load]
        now = self._predictor.forecast(load, self._levels).margin
        in_force = issued.decision.promise
        if now is None or in_force is None:
            return above_s
        current_s = issued.bound_with(now.part_at(in_force.in_force_mhz).quantile)
        between_s = (issued.bound_s + current_s) / 2
        return between_s if 0 < between_s < math.inf and current_s > issued.bound_s else above_s

    def _apply(
        self, issued: Issued, latency_s: float, clock_mhz: float, *, duplicate: bool
    ) -> None:
        self._predictor.learn(
            Outcome(
                load=LOADS[issued.stretch.load],
                clock_mhz=clock_mhz,
                latency_s=latency_s,
                ended_at_s=0.05 * self._sequence,
                decision=issued.decision,
            )
        )
        self.trace.events.append(
            Label(issued=issued, latency_s=latency_s, clock_mhz=clock_mhz, duplicate=duplicate)
        )


def _misses(issued: Issued) -> bool:
    """Whether the mode makes this label a miss."""
    match issued.stretch.mode:
        case "above" | "unsettled misses":
            return True
        case "miss if certified":
            return issued.decision.status is Status.CERTIFIED
        case "miss when low":
            return issued.part.quantile < 0.3
        case "unsettled":
            return issued.index % 3 == 0
    return False
