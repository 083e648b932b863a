"""EcoFreq: per iteration, the lowest clock whose predicted latency fits the phase's budget.

After VoltanaLLM's EcoFreq (arXiv 2509.04827). A decode iteration may take the ITL threshold. A
prefill iteration may take what is left of the TTFT threshold for the request that has waited
longest. Where requests are left waiting (behind a prefill batch, or for room in a decode instance's
KV cache, which a slow clock keeps full), the published rule asks for the fastest clock. A mixed
batch has to fit both budgets.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.levels import idle_decision, require_levels
from voltana.planning import lowest_safe_decision
from voltana.values import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Predictor
    from voltana.slo import Slo
    from voltana.values import Observation


class EcoFreq:
    """Satisfies `voltana.ports.Controller`; its forecast is the one that the loop scores.

    Args:
        predictor: Latency model; its upper bound has to fit. Taught by the loop, not here.
        levels_mhz: Clocks to choose from, ascending, at least one.
        slo: The thresholds.
        ttft_share: Share of the TTFT threshold that prefill is planned against. The rest is a
            reserve for prompts that arrive during the batch and have to wait for its end.
        queue_rule: Whether to run at the fastest clock while requests wait.
        idle_after_s: Silence after which an idle instance is put on `idle_mhz`; inf never.
        idle_mhz: Clock to wait at; None takes the lowest level.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        predictor: Predictor,
        levels_mhz: Sequence[float],
        slo: Slo,
        *,
        ttft_share: float = 1.0,
        queue_rule: bool = True,
        idle_after_s: float = math.inf,
        idle_mhz: float | None = None,
    ) -> None:
        if not 0 < ttft_share <= 1:
            raise invalid("ttft_share", ttft_share, "above 0, at most 1", "1 keeps no reserve.")
        if not idle_after_s >= 0:
            raise invalid("idle_after_s", idle_after_s, "0 or more", "inf stays where it is.")
        self.predictor = predictor
        self.levels_mhz = require_levels(levels_mhz)
        self._levels = np.array(levels_mhz, dtype=np.float64)
        self._slo = slo
        self._reserve_s = (1.0 - ttft_share) * slo.ttft_s
        self._queue_rule = queue_rule
        self._idle_after_s = idle_after_s
        self._slowly = idle_decision(self.levels_mhz, idle_mhz)
        self._clock_mhz = self.levels_mhz[-1]
        self._busy_at_s = -math.inf

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        load, queue = observation.load, observation.queue
        if load.prefill_tokens:
            budget_s = self._slo.prefill_budget_s(queue) - self._reserve_s
            if load.decode_requests:
                budget_s = min(budget_s, self._slo.decode_budget_s())
        elif load.decode_requests:
            budget_s = self._slo.decode_budget_s()
        else:
            return self._idle(observation.now_s)
        self._busy_at_s = observation.now_s
        forecast = self.predictor.forecast(load, self._levels)
        if self._queue_rule and queue.requests:
            decision = Decision(
                clock_mhz=self.levels_mhz[-1],
                reason="requests wait: fastest",
                forecast=forecast,
                budget_s=budget_s,
            )
        else:
            decision = lowest_safe_decision(forecast, budget_s)
        self._clock_mhz = decision.clock_mhz
        return decision

    def _idle(self, now_s: float) -> Decision:
        if now_s - self._busy_at_s < self._idle_after_s:
            return Decision(clock_mhz=self._clock_mhz, reason="idle: stay")
        self._clock_mhz = self._slowly.clock_mhz
        return self._slowly

    def __repr__(self) -> str:
        low, high = self.levels_mhz[0], self.levels_mhz[-1]
        return f"EcoFreq({type(self.predictor).__name__}, {low:g}-{high:g} MHz)"
