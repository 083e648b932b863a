"""A wrapper that lets the clock rise at once and fall slowly."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from voltana.controllers.wrapper import ControllerWrapper
from voltana.errors import invalid
from voltana.levels import resolve
from voltana.planning import certified_status
from voltana.ports import HasLevels
from voltana.values import UNBOUNDED, Decision, Status

if TYPE_CHECKING:
    from voltana.ports import Controller
    from voltana.values import Observation


class RateLimited(ControllerWrapper):
    """Holds a clock for a while before it falls, and lets it fall by so much at a time.

    A clock that is too high costs energy, one that is too low costs latency: so rises pass as they
    are. What it limits against is the clock asked for last, after the core's clamp.

    Args:
        controller: Decides what is wanted.
        dwell_s: Time for which a clock is held before a lower one is asked for.
        max_step_mhz: The most that it falls at a time; at least the distance of two levels, or it
            would never fall.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self, controller: Controller, *, dwell_s: float, max_step_mhz: float = math.inf
    ) -> None:
        if not dwell_s >= 0:
            raise invalid("dwell_s", dwell_s, "0 s or more", "0 limits only the step.")
        super().__init__(controller)
        self._levels = self.levels_mhz if isinstance(self, HasLevels) else ()
        widest = max((b - a for a, b in itertools.pairwise(self._levels)), default=0.0)
        if not max_step_mhz >= max(widest, 1e-9):
            raise invalid(
                "max_step_mhz",
                max_step_mhz,
                f"at least {widest:g} MHz, the widest gap between two levels",
                "Allow larger steps, or use closer levels.",
            )
        self._dwell_s = dwell_s
        self._max_step_mhz = max_step_mhz
        self._held_mhz = math.nan
        self._held_since_s = -math.inf

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        wanted = self.controller.decide(observation)
        now_s, held_mhz = observation.now_s, observation.target_mhz
        if held_mhz != self._held_mhz:
            self._held_mhz, self._held_since_s = held_mhz, now_s
        if not wanted.clock_mhz < held_mhz:  # a nan on either side passes too
            return wanted
        if now_s - self._held_since_s < self._dwell_s:
            return self._raised(wanted, held_mhz, "rate limit: hold")
        floor_mhz = held_mhz - self._max_step_mhz
        if wanted.clock_mhz >= floor_mhz:
            return wanted
        return self._raised(wanted, floor_mhz, "rate limit: step down")

    def _raised(self, wanted: Decision, clock_mhz: float, reason: str) -> Decision:
        if self._levels:
            clock_mhz = resolve(clock_mhz, self._levels, UNBOUNDED)
        status = certified_status(
            wanted.forecast, wanted.budget_s, clock_mhz=clock_mhz, achieved_mhz=math.nan
        )
        return Decision(
            clock_mhz=clock_mhz,
            reason=reason,
            status=status if status is Status.CERTIFIED else Status.VOID,
            forecast=wanted.forecast,
            budget_s=wanted.budget_s,
        )

    def __repr__(self) -> str:
        step = "" if self._max_step_mhz == math.inf else f", max_step_mhz={self._max_step_mhz:g}"
        return f"RateLimited({self.controller!r}, dwell_s={self._dwell_s:g}{step})"
