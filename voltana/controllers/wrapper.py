"""What every wrapper of a controller passes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.ports import HasLevels, HearsEnds, HoldsPredictor, Plans, TellsDemand, viability_of

if TYPE_CHECKING:
    from voltana.ports import Controller, Predictor
    from voltana.viability_account import ViabilityAccount


class ControllerWrapper:
    """Shows the latency model of the wrapped controller and its levels, where it has any.

    Args:
        controller: What is wrapped.

    Attributes:
        controller: The same.
        levels_mhz: Clocks that it may ask for; absent where it does not say.
    """

    levels_mhz: tuple[float, ...]

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self._plans = controller if isinstance(controller, Plans) else None
        self._measures = controller if isinstance(controller, TellsDemand) else None
        self._hears = controller if isinstance(controller, HearsEnds) else None
        if isinstance(controller, HasLevels):
            self.levels_mhz = tuple(map(float, controller.levels_mhz))

    def plan(self, now_s: float) -> None:
        """Let the wrapped controller plan, if it does."""
        if self._plans is not None:
            self._plans.plan(now_s)

    def viability_account(self) -> ViabilityAccount | None:
        """That of the wrapped controller, if it keeps one."""
        return viability_of(self.controller)

    def demand_per_s(self) -> float | None:
        """That of the wrapped controller, if it measures it."""
        return None if self._measures is None else self._measures.demand_per_s()

    def request_ended(self, *, late: bool | None) -> None:
        """Tell the wrapped controller, if it wants to know."""
        if self._hears is not None:
            self._hears.request_ended(late=late)

    @property
    def predictor(self) -> Predictor | None:
        """That of the wrapped controller; None where it brings none."""
        wrapped = self.controller
        return wrapped.predictor if isinstance(wrapped, HoldsPredictor) else None
