"""PID control of the measured latency, with anti-windup.

Needs no model: it only watches how far the last latency was from a set point below the SLO. The
baseline for what prediction is worth. Positional form with conditional integration (Åström,
Hägglund, Advanced PID Control, 2006, section 3.5); samples are iterations, so the time between
them is taken from the observations and has no default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.levels import require_levels, resolve
from voltana.values import UNBOUNDED, Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.slo import Slo
    from voltana.values import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class PidGains:
    """Gains over the relative error, (latency - set point) / set point.

    Attributes:
        proportional_mhz: Clock per unit of error, MHz.
        integral_mhz_per_s: Growth of the clock per unit of error, MHz/s.
        derivative_mhz_s: Clock per unit of error and second, MHz s.

    Raises:
        ConfigError: If a gain is negative or not finite.
    """

    proportional_mhz: float = 300.0
    integral_mhz_per_s: float = 600.0
    derivative_mhz_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("proportional_mhz", "integral_mhz_per_s", "derivative_mhz_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise invalid(name, getattr(self, name), "0 or more", "A slow loop needs a clock.")


class Pid:
    """Satisfies `voltana.ports.Controller`; starts at the fastest level.

    The controlled latency is that of the last iteration, for prefill together with the longest
    wait: TTFT as it stands.

    Args:
        levels_mhz: Clocks to choose from, ascending, at least one.
        slo: The thresholds.
        gains: See `PidGains`.
        set_point: Share of the threshold that is aimed at.
        max_gap_s: Longest time between two samples that counts; after a longer silence the
            integral has seen only this much, and there is no derivative.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        levels_mhz: Sequence[float],
        slo: Slo,
        *,
        gains: PidGains | None = None,
        set_point: float = 0.85,
        max_gap_s: float = 0.5,
    ) -> None:
        if not 0 < set_point <= 1:
            raise invalid("set_point", set_point, "above 0, at most 1", "0.85 leaves some room.")
        if not max_gap_s > 0:
            raise invalid("max_gap_s", max_gap_s, "above 0 s", "Half a second is usual.")
        self.levels_mhz = require_levels(levels_mhz)
        self._slo = slo
        self._gains = gains or PidGains()
        self._set_point = set_point
        self._max_gap_s = max_gap_s
        self._integral_mhz = self.levels_mhz[-1]
        self._last_error = math.nan
        self._last_s = math.nan
        self._clock_mhz = self.levels_mhz[-1]

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        load, latency_s = observation.load, observation.last_latency_s
        if not (load.prefill_tokens or load.decode_requests) or not latency_s >= 0:
            return Decision(clock_mhz=self._clock_mhz, reason="no new latency: stay")
        target_s = self._slo.itl_s
        if load.prefill_tokens:
            target_s = self._slo.ttft_s
            latency_s += observation.queue.oldest_wait_s
        error = latency_s / (self._set_point * target_s) - 1.0
        demand_mhz = self._update(error, observation.now_s)
        self._clock_mhz = resolve(demand_mhz, self.levels_mhz, UNBOUNDED)
        return Decision(clock_mhz=self._clock_mhz, reason="latency against its set point")

    def _update(self, error: float, now_s: float) -> float:
        """One PID step; returns the demand, within the levels."""
        low_mhz, high_mhz = self.levels_mhz[0], self.levels_mhz[-1]
        gains, gap_s = self._gains, now_s - self._last_s
        known = 0 < gap_s <= self._max_gap_s
        slope = (error - self._last_error) / gap_s if known else 0.0
        self._last_error, self._last_s = error, now_s
        shaped_mhz = gains.proportional_mhz * error + gains.derivative_mhz_s * slope
        # nan before the first sample: there is no time to integrate over yet.
        step_s = min(gap_s, self._max_gap_s) if gap_s > 0 else 0.0
        step_mhz = gains.integral_mhz_per_s * error * step_s
        # Conditional integration: beyond the range the integral goes no further outwards than it
        # takes to reach the limit, so it turns round as soon as the error does.
        old_mhz, new_mhz = self._integral_mhz, self._integral_mhz + step_mhz
        if step_mhz > 0:
            new_mhz = max(old_mhz, min(new_mhz, high_mhz - shaped_mhz))
        else:
            new_mhz = min(old_mhz, max(new_mhz, low_mhz - shaped_mhz))
        self._integral_mhz = min(max(new_mhz, low_mhz), high_mhz)
        return min(max(self._integral_mhz + shaped_mhz, low_mhz), high_mhz)

    def __repr__(self) -> str:
        gains = self._gains
        return (
            f"Pid({gains.proportional_mhz:g} MHz, {gains.integral_mhz_per_s:g} MHz/s, "
            f"{gains.derivative_mhz_s:g} MHz s)"
        )
