"""A wrapper that keeps an instance safe from its own controller."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog

from voltana.controllers.wrapper import ControllerWrapper
from voltana.errors import invalid
from voltana.ports import HasLevels
from voltana.values import Decision

if TYPE_CHECKING:
    from voltana.ports import Controller, TimeSource
    from voltana.values import Observation

_log = structlog.get_logger("voltana.supervisor")


class Supervised(ControllerWrapper):
    """Falls back while a controller fails, and tries it again after a while.

    A fault is an exception, something that is no decision, a clock that is not finite or not among
    the controller's levels, or a decision that took too long. Each change between the two is
    logged once. What the fallback raises is not caught: there is nothing left to fall back to.

    Args:
        controller: Decides while it works.
        fallback: Decides otherwise; `FixedClock.max` is the safe choice.
        recover_after_s: Time after a fault before the controller is asked again.
        limit_s: The longest that a decision may take; inf sets no limit.
        time: Measures that; only needed with a limit.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        fallback: Controller,
        recover_after_s: float = 5.0,
        limit_s: float = math.inf,
        time: TimeSource | None = None,
    ) -> None:
        if not recover_after_s >= 0:
            raise invalid("recover_after_s", recover_after_s, "0 s or more", "5 s is usual.")
        if not limit_s > 0:
            raise invalid("limit_s", limit_s, "above 0 s", "inf sets no limit.")
        if limit_s < math.inf and time is None:
            raise invalid("time", None, "a time source where there is a limit", "Pass one.")
        super().__init__(controller)
        self._levels = frozenset(self.levels_mhz) if isinstance(self, HasLevels) else None
        self.fallback = fallback
        self._recover_after_s = recover_after_s
        self._limit_s = limit_s
        self._time = time
        self._retry_at_s = -math.inf
        self._failed = False

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        if observation.now_s >= self._retry_at_s:
            decision, fault = self._try(observation)
            if decision is not None:
                if self._failed:
                    self._failed = False
                    _log.info("recovered", instance=observation.instance, controller=repr(self))
                return decision
            self._retry_at_s = observation.now_s + self._recover_after_s
            if not self._failed:
                self._failed = True
                _log.warning(
                    "fallback", instance=observation.instance, fault=fault, controller=repr(self)
                )
        decision = self.fallback.decide(observation)
        return Decision(
            clock_mhz=decision.clock_mhz,
            reason=f"fallback: {decision.reason}",
            status=decision.status,
            forecast=decision.forecast,
            budget_s=decision.budget_s,
            binding=decision.binding,
        )

    def plan(self, now_s: float) -> None:
        """See `voltana.ports.Plans`; a plan that fails is a fault like a decision that does."""
        if now_s < self._retry_at_s:
            return
        try:
            super().plan(now_s)
        except Exception as error:  # noqa: BLE001  (any error of a policy must not stop the engine)
            self._retry_at_s = now_s + self._recover_after_s
            if not self._failed:
                self._failed = True
                _log.warning(
                    "fallback",
                    fault=f"plan: {type(error).__name__}: {error}",
                    controller=repr(self),
                )

    def _try(self, observation: Observation) -> tuple[Decision | None, str]:
        """The controller's decision, or None and what is wrong with it."""
        before_s = 0.0 if self._time is None else self._time.now_s()
        try:
            decision: object = self.controller.decide(observation)
        except Exception as error:  # noqa: BLE001  (any error of a policy must not stop the engine)
            return None, f"{type(error).__name__}: {error}"
        took_s = 0.0 if self._time is None else self._time.now_s() - before_s
        if took_s > self._limit_s:
            return None, f"took {took_s:.4g} s, limit {self._limit_s:g} s"
        if not isinstance(decision, Decision):
            return None, f"{type(decision).__name__} is no Decision"
        clock_mhz = decision.clock_mhz
        if not math.isfinite(clock_mhz):
            return None, f"clock_mhz = {clock_mhz!r} is not finite"
        if self._levels is not None and clock_mhz not in self._levels:
            return None, f"clock_mhz = {clock_mhz!r} is none of its levels"
        return decision, ""

    def __repr__(self) -> str:
        return f"Supervised({self.controller!r}, fallback={self.fallback!r})"
