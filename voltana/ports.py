"""The ports: structural Protocols that a user's class satisfies without a base class.

Data flows one way round the loop: a Sensor's reading becomes an Observation, a Predictor forecasts
it, a Controller decides, the core clamps and certifies, an Actuator applies, and the measured
Outcome goes back to the Predictor. Routers stand beside the loop and look at frozen snapshots.
`voltana.testing` has a check suite for each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from voltana_actuatord.timebase import TimeSource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.values import (
        ActuatorStatus,
        Candidate,
        Command,
        Decision,
        Exposure,
        FloatArray,
        Forecast,
        Load,
        Observation,
        Outcome,
        Reading,
        Request,
    )

__all__ = [
    "Actuator",
    "Controller",
    "Forecasts",
    "PowerPredictor",
    "Predictor",
    "PredictorSnapshot",
    "Router",
    "Sensor",
    "TimeSource",
]


@runtime_checkable
class Forecasts(Protocol):
    """Anything that can forecast latency: a live predictor or a frozen snapshot of one."""

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """Forecast the latency of `load` at every clock; mutates nothing.

        Args:
            load: What the iteration computes.
            clocks_mhz: Shape (n,), ascending.

        Returns:
            Mean and upper bound, each of shape (n,), in seconds; inf where unknown.
        """
        ...


@runtime_checkable
class PredictorSnapshot(Forecasts, Protocol):
    """A frozen, serialisable copy of a predictor that forecasts without the learner."""

    def to_dict(self) -> Mapping[str, object]:
        """The snapshot as plain JSON values."""
        ...


@runtime_checkable
class Predictor(Forecasts, Protocol):
    """Latency model that learns online."""

    def learn(self, outcome: Outcome) -> None:
        """Learn from one measured iteration; mutates only the predictor itself."""
        ...

    def snapshot(self) -> PredictorSnapshot:
        """A frozen copy; later learning does not change it."""
        ...


@runtime_checkable
class PowerPredictor(Protocol):
    """Power model that learns from windows of the energy counter, not from iterations."""

    def forecast_w(self, load: Load, clocks_mhz: FloatArray) -> FloatArray:
        """Mean power in watts of all devices of the instance at every clock; mutates nothing."""
        ...

    def learn_window(self, energy_j: float, exposures: Sequence[Exposure]) -> None:
        """Learn from the energy of one window and what ran in it, idle stretches included."""
        ...


@runtime_checkable
class Controller(Protocol):
    """Chooses the clock of the coming iteration."""

    def decide(self, observation: Observation) -> Decision:
        """Propose a clock; may keep state of its own, must not touch what it was given."""
        ...


@runtime_checkable
class Router(Protocol):
    """Chooses an instance for a request; pure, and keeps no ledger of its own."""

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:
        """Name one of `candidates` (never empty, all of one role).

        Raises:
            RoutingError: If none of them can take the request.
        """
        ...


@runtime_checkable
class Actuator(Protocol):
    """Makes a device run at a clock."""

    def table(self) -> tuple[float, ...]:
        """Clocks in MHz that the device supports, ascending."""
        ...

    def apply(self, command: Command) -> None:
        """Ask for a clock; never blocks, and the latest command wins."""
        ...

    def status(self) -> ActuatorStatus:
        """What was achieved, read back from the device."""
        ...

    def close(self) -> None:
        """Give the default clocks back; may be called twice."""
        ...


@runtime_checkable
class Sensor(Protocol):
    """Reads clock, power and energy of the devices of an instance."""

    def read(self) -> Reading:
        """Take one reading."""
        ...
