"""What a label counts for: docs/guarantee.md, "Which labels are scored". Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from voltana.in_force import is_settled
from voltana.predictors.conformal.quantile_tracker import COUNTED_CERTIFIED, Counted
from voltana.values.control import CERTIFIED
from voltana_actuatord.quick import tuple_maker

if TYPE_CHECKING:
    from voltana.promise import Margin, MarginPart, Promise
    from voltana.values import Decision, Forecast, Outcome


class Verdict(NamedTuple):
    """What a label counts for.

    Attributes:
        part: Margin that was issued for it.
        mean_s: Latency that was expected at the clock in force; inf where it was not.
        settled: Whether it ran at the clock in force.
        missed: Whether it took longer than its bound, as issued.
        counts_as: How it is scored; None if it is not.
    """

    part: MarginPart
    mean_s: float
    settled: bool
    missed: bool
    counts_as: Counted | None


make_verdict = tuple_maker(Verdict)


def verdict(
    outcome: Outcome, decision: Decision, promise: Promise, forecast: Forecast, margin: Margin
) -> Verdict:
    """Judge a label of usable latency, by what was issued alone."""
    index, factor = forecast.standing_for(promise.in_force_mhz)
    part = margin.part_at(float(forecast.clocks_mhz[index]) if index >= 0 else 0.0)
    mean_s = float(forecast.mean_s[index]) * factor if index >= 0 else math.inf
    settled = is_settled(outcome.clock_mhz, promise.in_force_mhz)
    if not (mean_s < math.inf and part.quantile < math.inf):
        return Verdict(part, mean_s, settled, missed=False, counts_as=None)
    missed = outcome.latency_s > margin.bound_s(part, mean_s)
    certified = decision.status is CERTIFIED
    if certified and (settled or missed):
        return make_verdict(part, mean_s, settled, missed, COUNTED_CERTIFIED)
    if not certified and not _margin_alone_blocks(decision, promise, forecast):
        return Verdict(part, mean_s, settled, missed, None)
    if settled:
        # A miss of what was not promised has nothing to win: its raise would have to come down
        # again, hit by hit, before anything is certified.
        return Verdict(part, mean_s, settled, missed, None if missed else Counted.BLOCKED)
    hit = outcome.latency_s <= _bound_there_s(outcome.clock_mhz, part, mean_s, forecast, margin)
    return Verdict(part, mean_s, settled, missed, Counted.ELSEWHERE if hit else None)


def _margin_alone_blocks(decision: Decision, promise: Promise, forecast: Forecast) -> bool:
    """Whether the mean alone would have fitted at the fastest permitted clock."""
    return forecast.mean_at(promise.fastest_mhz) <= decision.budget_s < math.inf


def _bound_there_s(
    clock_mhz: float, part: MarginPart, mean_s: float, forecast: Forecast, margin: Margin
) -> float:
    """The bound as issued for the clock that the label ran at; 0 where there was none.

    An unknown clock is held against that of the clock in force. Between two clocks of the forecast
    the mean is the least that physics allows: it falls by no more than the clock grows.
    """
    if not 0.0 < clock_mhz < math.inf:
        return margin.bound_s(part, mean_s)
    index = forecast.index_at(clock_mhz)
    if index < 0:
        return 0.0
    level_mhz = float(forecast.clocks_mhz[index])
    there_s = float(forecast.mean_s[index]) * min(level_mhz / clock_mhz, 1.0)
    if margin.part_at(level_mhz).group != part.group or not there_s < math.inf:
        return 0.0
    return margin.bound_s(part, there_s)
