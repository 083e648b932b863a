"""Who decides about clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.values import Decision, Load, Observation
    from voltana.viability_account import ViabilityAccount


@runtime_checkable
class Controller(Protocol):
    """Chooses the clock of the coming iteration."""

    def decide(self, observation: Observation) -> Decision:
        """Propose a clock; may keep state of its own, must not touch what it was given."""
        ...


@runtime_checkable
class Plans(Protocol):
    """What a controller is beside that if its decisions stand on a plan that takes longer."""

    def plan(self, now_s: float) -> None:
        """Work the plan out anew; called by the loop between iterations, some times a second."""
        ...


@runtime_checkable
class KeepsViability(Protocol):
    """A controller that says how often its envelope was broken, and its batch outside."""

    def viability_account(self) -> ViabilityAccount | None:
        """What it has counted so far; None where it counts nothing."""
        ...


@runtime_checkable
class TellsDemand(Protocol):
    """What a controller is beside that if it measures what its instance is asked for."""

    def demand_per_s(self) -> float | None:
        """Output tokens per second; None where it measures none."""
        ...


@runtime_checkable
class HearsEnds(Protocol):
    """What a controller is beside that if it learns from what its requests made of their ITL."""

    def request_ended(self, *, late: bool | None) -> None:
        """A request has ended; called between iterations.

        Args:
            late: Whether its mean ITL was above the threshold; None where nobody can tell, as of
                one that was promised nothing.
        """
        ...


def viability_of(controller: Controller) -> ViabilityAccount | None:
    """What a controller has counted of viability; None where it keeps no account of it."""
    return controller.viability_account() if isinstance(controller, KeepsViability) else None


@runtime_checkable
class HasLevels(Protocol):
    """What a controller is beside that if it asks for some of the device's clocks alone."""

    @property
    def levels_mhz(self) -> Sequence[float]:
        """Those clocks, ascending; may be a plain attribute."""
        ...


@runtime_checkable
class KeepsAccount(Protocol):
    """What a predictor is beside that if it proves how often its certificates may break."""

    def account(self) -> Mapping[str, float]:
        """The account (docs/guarantee.md); ``violated`` is proven to be at most ``bound``."""
        ...


@runtime_checkable
class TellsExpected(Protocol):
    """What a predictor is beside that if it tells its mean at one clock for little."""

    def expected_s(self, load: Load, clock_mhz: float) -> float:
        """Expected latency at one clock: what `forecast` yields there; 0 when idle."""
        ...
