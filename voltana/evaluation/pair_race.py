"""Ends the simulation of a pair of clocks as soon as it is decided that another pair is better.

All pairs serve the same requests with the same noise (common random numbers), so that two of them
can be compared at any instant of their runs. A run is given up where

- so many requests have missed a threshold that what is allowed cannot be kept any more, whatever
  follows: nothing is lost by that;
- it has used more energy than the best pair up to the same instant, by a margin that narrows as
  more is seen: a race, as in O. Maron and A. Moore, "Hoeffding races: accelerating model selection
  search for classification and function approximation", NIPS 1993. Its score is then the energy of
  the best pair times the ratio seen, which ranks those that lost among each other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.pair_search import DECODE, PREFILL, Score
from voltana.plant.record import mean_itl_s
from voltana.plant.simulation import METER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.evaluation.scenario import Scenario
    from voltana.plant.simulation import Simulation
    from voltana.slo import Attainment

MARGIN = 0.01
"""Share of energy by which a pair may be behind the best at the last arrival; earlier as much more
as the square root of the time that is left over says."""

LOOKS = 32
"""Instants up to the last arrival at which a run is looked at."""

FIRST_S = 8.0
"""Nothing is decided before: queues and batches still fill."""

ROUNDING = 1e-9


class Race:
    """Knows the best pair so far, and tells which runs cannot beat it.

    Args:
        scenario: What is served.
        allowed: The attainments to keep.
    """

    def __init__(self, scenario: Scenario, allowed: Attainment) -> None:
        trace = scenario.trace
        self._slo, self._allowed = scenario.cluster.slo, allowed
        self._arrival_s, self._tokens = trace.arrival_s, trace.output_tokens
        self._last_s = float(trace.arrival_s[-1])
        self._many = int(np.count_nonzero(trace.output_tokens > 1))
        self._best = Score(math.inf, math.inf)
        self._best_j: Sequence[float] = ()

    def looks_s(self, limit_s: float) -> list[float]:
        """When to look at a run that may take until `limit_s`: the last is `limit_s` itself."""
        looks_s = [self._last_s * (index + 1) / LOOKS for index in range(LOOKS)]
        looks_s += [self._last_s + (limit_s - self._last_s) * share for share in (0.1, 0.3)]
        return [*(at_s for at_s in looks_s if FIRST_S <= at_s < limit_s), limit_s]

    def ended(self, score: Score, simulation: Simulation) -> None:
        """Take note of a run that reached its end."""
        if score < self._best:
            self._best, self._best_j = score, simulation.metered_j

    def lost(self, simulation: Simulation) -> Score | None:
        """The score of a run that need not go on; None where it may still be the best."""
        short = self._short(simulation)
        if short.short > ROUNDING:
            return short
        seen = len(simulation.metered_j) - 1
        if self._best.short > 0 or not 0 < seen < len(self._best_j):
            return None
        ratio = simulation.metered_j[seen] / self._best_j[seen]
        behind = MARGIN * math.sqrt(max(self._last_s / (seen * METER_S), 1.0))
        return Score(0.0, self._best.energy_j * ratio) if ratio > 1.0 + behind else None

    def _short(self, simulation: Simulation) -> Score:
        """By how much an attainment will fall short even if all is kept from now on.

        That of single tokens is not looked at: what decides it is not kept by request.
        """
        jobs, now_s = simulation.jobs, simulation.now_s
        first_s, completed_s = (
            np.minimum([getattr(job, name) for job in jobs], latest_s)
            for name, latest_s in (("first_token_s", math.inf), ("completed_s", now_s))
        )
        wait_s = np.minimum(first_s, now_s) - self._arrival_s[: len(jobs)]
        late = np.count_nonzero(wait_s > self._slo.ttft_s)
        gap_s = mean_itl_s(first_s, completed_s, self._tokens[: len(jobs)])
        slow = np.count_nonzero(gap_s > self._slo.itl_s)
        kept = (1.0 - late / len(self._tokens), 1.0 - slow / max(self._many, 1))
        return worst((PREFILL, self._allowed.ttft, kept[0]), (DECODE, self._allowed.itl, kept[1]))


def worst(*attained: tuple[int, float, float]) -> Score:
    """What falls short most of role, wanted and kept share; a score without energy."""
    shorts = [(w - kept, axis) for axis, w, kept in attained if not math.isnan(w)]
    short, axis = max(shorts, default=(0.0, PREFILL))
    return Score(short, math.inf, axis) if short > ROUNDING else Score(0.0, math.inf)
