"""What every wrapper of a controller passes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from voltana.ports import (
    HasLevels,
    HearsEnds,
    HoldsPredictor,
    Plans,
    TellsDemand,
    offers,
    viability_of,
)

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
        if isinstance(controller, HasLevels):
            self.levels_mhz = tuple(map(float, controller.levels_mhz))

    def plan(self, now_s: float) -> None:
        """Let the wrapped controller plan, if it does."""
        if offers(self.controller, Plans):
            cast("Plans", self.controller).plan(now_s)

    def viability_account(self) -> ViabilityAccount | None:
        """That of the wrapped controller, if it keeps one."""
        return viability_of(self.controller)

    def demand_per_s(self) -> float | None:
        """That of the wrapped controller, if it measures it."""
        wrapped = self.controller
        return cast("TellsDemand", wrapped).demand_per_s() if offers(wrapped, TellsDemand) else None

    def request_ended(self, *, late: bool | None) -> None:
        """Tell the wrapped controller, if it wants to know."""
        if offers(self.controller, HearsEnds):
            cast("HearsEnds", self.controller).request_ended(late=late)

    @property
    def predictor(self) -> Predictor | None:
        """That of the wrapped controller; None where it brings none."""
        wrapped = self.controller
        return wrapped.predictor if isinstance(wrapped, HoldsPredictor) else None
