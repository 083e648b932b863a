"""EcoFreq as the published system's code v0.1 runs it: the baseline to beat, kept as it is.

Facts after VoltanaLLM's released code (arXiv 2509.04827, September 2025): it starts at the lowest
level; the mean of a profiled table has to fit, no bound around it; a margin *loosens* the
threshold; prompts that still wait after the batch was formed mean the fastest level; after five
seconds of silence the clock goes back to the lowest. Rate thresholds are off, as in its demo.
A decode batch's requests that are still being transferred are no waiting requests there.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.levels import require_levels
from voltana.values import Decision, Load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Forecasts
    from voltana.slo import Slo
    from voltana.values import Observation


class EcoFreqV01:
    """Satisfies `voltana.ports.Controller`; promises nothing, as the original does not.

    Args:
        predictor: Profiled tables; never taught.
        levels_mhz: Clocks to choose from, ascending, at least one.
        slo: The thresholds.
        slo_margin: Share by which the thresholds are loosened; 0.35 turns 50 ms into 67.5 ms.
        silence_s: Idle time after which the lowest level is taken.
        median_of: Decode iterations whose median batch and KV tokens are looked up: as many as
            pass between two control steps, so 1 where every iteration has its step.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        predictor: Forecasts,
        levels_mhz: Sequence[float],
        slo: Slo,
        *,
        slo_margin: float = 0.0,
        silence_s: float = 5.0,
        median_of: int = 1,
    ) -> None:
        if not 0 <= slo_margin < math.inf:
            raise invalid(
                "slo_margin", slo_margin, "0 or more, and finite", "0 keeps the SLO as it is."
            )
        if median_of < 1:
            raise invalid("median_of", median_of, "1 or more", "1 looks at the coming batch.")
        self.predictor = predictor
        self.levels_mhz = require_levels(levels_mhz)
        self._levels = np.array(levels_mhz, dtype=np.float64)
        self._ttft_s = slo.ttft_s * (1 + slo_margin)
        self._itl_s = slo.itl_s * (1 + slo_margin)
        self._slo_margin = slo_margin
        self._silence_s = silence_s
        self._recent: deque[tuple[int, int]] = deque(maxlen=median_of)
        self._clock_mhz = self.levels_mhz[0]
        self._heard_at_s = float("-inf")

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        load, queue = observation.load, observation.queue
        if not (load.prefill_tokens or load.decode_requests):
            if observation.now_s - self._heard_at_s > self._silence_s:
                self._clock_mhz = self.levels_mhz[0]
            return Decision(clock_mhz=self._clock_mhz, reason="no metrics")
        self._heard_at_s = observation.now_s
        if load.prefill_tokens and queue.requests:
            return self._choose(self.levels_mhz[-1], "requests wait: fastest")
        budget_s = self._itl_s
        if load.prefill_tokens:
            budget_s = self._ttft_s - queue.oldest_wait_s
        else:
            load = self._median(load)
        mean_s = self.predictor.forecast(load, self._levels).mean_s
        fits = (mean_s[:-1] <= budget_s).nonzero()[0]
        if len(fits):
            return self._choose(self.levels_mhz[int(fits[0])], "lowest level that fits")
        return self._choose(self.levels_mhz[-1], "fastest level")

    def _median(self, load: Load) -> Load:
        self._recent.append((load.decode_requests, load.decode_kv_tokens))
        if len(self._recent) == 1:
            return load
        requests, tokens = zip(*self._recent, strict=True)
        return Load.decode(round(statistics.median(requests)), round(statistics.median(tokens)))

    def _choose(self, clock_mhz: float, reason: str) -> Decision:
        self._clock_mhz = clock_mhz
        return Decision(clock_mhz=clock_mhz, reason=reason)

    def __repr__(self) -> str:
        levels = ", ".join(f"{mhz:g}" for mhz in self.levels_mhz)
        return f"EcoFreqV01([{levels}] MHz, slo_margin={self._slo_margin:g})"
