"""How late an instance would be at each clock: latency over what its requests leave for it.

That of decode is its iteration over the ITL threshold. A prefill iteration may be in time, and what
waits behind it late all the same: its lateness is that of the worst prefix of the queue, as in
`voltana.controllers.optimal_available`. Requests whose deadline has passed cannot be helped and
count as work alone, before those that can.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from voltana.ports import Predictor
    from voltana.slo import Slo
    from voltana.values import Decision, FloatArray, Forecast, Observation

_LEAST_S = 1e-3
"""Budgets below it are no budgets."""


class Lateness:
    """Latency over budget, from the decision's forecast or from a model of its own.

    Args:
        slo: Thresholds of the requests; None knows those of decisions alone.
        latency: Model for decisions without a forecast, taught here from what has ended; None
            takes what such a decision wishes for as just enough, and latency to go as 1/clock.
    """

    def __init__(self, slo: Slo | None = None, latency: Predictor | None = None) -> None:
        self._slo = slo
        self._latency = latency

    def learn(self, observation: Observation) -> None:
        """Teach the model what has ended since the last observation."""
        if self._latency is not None:
            for outcome in observation.ended or ():
                self._latency.learn(outcome)

    def at(self, observation: Observation, wanted: Decision, levels: FloatArray) -> FloatArray:
        """Latency over budget at each level.

        Args:
            observation: What is decided about.
            wanted: What the controller wishes for.
            levels: Clocks up to the one wished for, in MHz, ascending, shape (n,).

        Returns:
            Shape (n,).
        """
        return self.timing(observation, wanted, levels)[0]

    def timing(
        self, observation: Observation, wanted: Decision, levels: FloatArray
    ) -> tuple[FloatArray, float]:
        """As `at`, and with it the longest that the iteration may take at these levels.

        Returns:
            Shape (n,), and seconds; 0 where nothing is known of them.
        """
        as_wished: FloatArray = levels[-1] / levels
        forecast, budget_s = wanted.forecast, wanted.budget_s
        if forecast is None or not budget_s < math.inf:
            if self._latency is None or self._slo is None:
                return as_wished, 0.0
            forecast = self._latency.forecast(observation.load, levels)
            budget_s = _own_budget_s(observation, self._slo)
        latency_s = _latency_s(forecast, levels)
        if latency_s is None:
            return as_wished, 0.0
        late: FloatArray = latency_s * _per_s(observation, budget_s)
        return late, float(latency_s.max())


def _own_budget_s(observation: Observation, slo: Slo) -> float:
    """What the threshold leaves for the iteration itself."""
    if observation.load.prefill_tokens:
        return slo.ttft_s - observation.queue.oldest_wait_s
    return slo.itl_s


def _latency_s(forecast: Forecast, levels: FloatArray) -> FloatArray | None:
    """Mean latency at each level; None where nothing is known."""
    known = np.isfinite(forecast.mean_s) & (forecast.mean_s > 0.0)  # 0: it has learned nothing yet
    if not known.any():
        return None
    clocks, mean_s = forecast.clocks_mhz[known], forecast.mean_s[known]
    latency_s: FloatArray = np.interp(levels, clocks, mean_s) * np.maximum(clocks[0] / levels, 1.0)
    return latency_s


def _per_s(observation: Observation, budget_s: float) -> float:
    """By what a latency of the iteration is multiplied, so that it is late above 1.

    The greatest of one over the iteration's own budget and, for each prefix of the queue, of the
    iterations that it takes over the time that is left for it.
    """
    tokens, now_s = observation.load.prefill_tokens, observation.now_s
    if not tokens:
        return 1.0 / max(budget_s, _LEAST_S)
    rates = [1.0 / budget_s] if budget_s > _LEAST_S else []
    rates += [
        (1.0 + bucket.cumulative_tokens / tokens) / (bucket.deadline_s - now_s)
        for bucket in observation.queue.deadlines
        if bucket.deadline_s - now_s > _LEAST_S
    ]
    return max(rates, default=1.0 / _LEAST_S)
