"""A window governor: one clock for the next window, from the load of the last one.

After DynamoLLM (arXiv 2408.00741), whose frequency controller looks at its instances every five
seconds and takes the lowest profiled clock that serves what it saw within the SLO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.levels import require_levels
from voltana.timebase import ControlPeriod
from voltana.values import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Forecasts
    from voltana.slo import Slo
    from voltana.values import FloatArray, Observation


class WindowGovernor:
    """Satisfies `voltana.ports.Controller`; starts at the fastest level, as it knows no load yet.

    A level serves a window if its heaviest decode iteration fits the ITL threshold, if a prompt
    that just missed the heaviest prefill batch and has to wait for it still meets the TTFT
    threshold, and if the window's prompts leave the instance idle for some of the time.

    Args:
        predictor: Latency model, such as profiled tables; its mean counts.
        levels_mhz: Clocks to choose from, ascending, at least one.
        slo: The thresholds.
        window_s: Length of a window.
        max_utilisation: Share of the window that its prefill iterations may take.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        predictor: Forecasts,
        levels_mhz: Sequence[float],
        slo: Slo,
        *,
        window_s: float = 5.0,
        max_utilisation: float = 0.8,
    ) -> None:
        if not 0 < max_utilisation <= 1:
            raise invalid("max_utilisation", max_utilisation, "above 0, at most 1", "Try 0.8.")
        if not window_s > 0:
            raise invalid("window_s", window_s, "above 0 s", "5 s is usual.")
        self.predictor = predictor
        self.levels_mhz = require_levels(levels_mhz)
        self._levels = np.array(levels_mhz, dtype=np.float64)
        self._slo = slo
        self._window_s = window_s
        self._max_busy_s = max_utilisation * window_s
        self._period: ControlPeriod | None = None
        self._decision = Decision(clock_mhz=self.levels_mhz[-1], reason="no window yet: fastest")
        self._clear()

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        if self._period is None:
            self._period = ControlPeriod(self._window_s, start_s=observation.now_s)
        if self._period.due(observation.now_s):
            self._decision = self._next()
            self._clear()
        load = observation.load
        if load.prefill_tokens or load.decode_requests:
            mean_s = self.predictor.forecast(load, self._levels).mean_s
            if load.prefill_tokens:
                self._prefill_busy_s += mean_s
                np.maximum(self._prefill_peak_s, mean_s, out=self._prefill_peak_s)
            if load.decode_requests:
                np.maximum(self._decode_peak_s, mean_s, out=self._decode_peak_s)
        return self._decision

    def _clear(self) -> None:
        shape = self._levels.shape
        self._prefill_busy_s: FloatArray = np.zeros(shape)
        self._prefill_peak_s: FloatArray = np.zeros(shape)
        self._decode_peak_s: FloatArray = np.zeros(shape)

    def _next(self) -> Decision:
        serves = (
            (self._decode_peak_s <= self._slo.itl_s)
            & (2 * self._prefill_peak_s <= self._slo.ttft_s)
            & (self._prefill_busy_s <= self._max_busy_s)
        )
        index = int(serves.argmax())
        if not serves[index]:
            return Decision(clock_mhz=self.levels_mhz[-1], reason="no level serves: fastest")
        return Decision(
            clock_mhz=self.levels_mhz[index], reason="lowest level that serves the last window"
        )

    def __repr__(self) -> str:
        low, high = self.levels_mhz[0], self.levels_mhz[-1]
        return f"WindowGovernor({self._window_s:g} s, {low:g}-{high:g} MHz)"
