"""The ports: structural Protocols that a user's class satisfies without a base class.

Data flows one way round the loop: a Sensor's reading becomes an Observation, a Predictor forecasts
it, a Controller decides, the core clamps and certifies, an Actuator applies, and the measured
Outcome goes back to the Predictor. Routers stand beside the loop and look at frozen snapshots.
`voltana.testing` has a check suite for each of them. Abilities that a component may have beside its
port are ports of their own; they are asked for when something is built, never in an iteration.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from voltana_actuatord.timebase import TimeSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from voltana.values import (
        ActuatorStatus,
        Candidate,
        Command,
        Decision,
        Deferral,
        Exposure,
        FloatArray,
        Forecast,
        Load,
        Need,
        Observation,
        Outcome,
        Reading,
        Request,
        Table,
    )
    from voltana.viability_account import ViabilityAccount

__all__ = [
    "Actuator",
    "Closable",
    "Controller",
    "Defers",
    "Forecasts",
    "FreezesPower",
    "HasLevels",
    "HoldsPredictor",
    "KeepsAccount",
    "KeepsViability",
    "LatencyCurve",
    "Needy",
    "Plans",
    "PowerCurve",
    "PowerForecasts",
    "PowerPredictor",
    "PowerSnapshot",
    "Predictor",
    "PredictorSnapshot",
    "Reopens",
    "Restorable",
    "Router",
    "Sensor",
    "TellsBatches",
    "TellsCurve",
    "TellsExpected",
    "TellsPowerCurve",
    "TellsPrefill",
    "TellsRoom",
    "TimeSource",
    "may_defer",
    "needs_of",
    "offers",
    "viability_of",
]


def offers(thing: object, port: type) -> bool:
    """Whether something satisfies a port of methods alone; its class is asked once.

    ``isinstance`` with a Protocol takes longer than most of what would be asked of it then.
    """
    kind: type = thing.__class__
    return _offers(kind, port)


@functools.cache
def _offers(kind: type, port: type) -> bool:
    return issubclass(kind, port)


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


class LatencyCurve(Protocol):
    """Latency of one load against the clock, one clock at a time."""

    def mean_s(self, clock_mhz: float) -> float:
        """Expected latency; inf where unknown."""
        ...

    def upper_s(self, clock_mhz: float) -> float:
        """Latency that is exceeded rarely; never rises with the clock; inf where unknown."""
        ...


@runtime_checkable
class TellsCurve(Protocol):
    """What a snapshot is beside that if a few clocks cost it less than a whole forecast."""

    def curve(self, load: Load) -> LatencyCurve | None:
        """What `forecast` yields for `load`, up to rounding; None where it may rise somewhere."""
        ...


@runtime_checkable
class TellsRoom(Protocol):
    """What a snapshot is beside that if it tells how many KV tokens a batch has room for."""

    def most_kv_tokens(self, requests: int, clock_mhz: float, budget_s: float) -> int | None:
        """Most tokens in the KV caches with which the upper bound of its `curve` keeps a budget.

        Args:
            requests: Requests of the batch.
            clock_mhz: The clock.
            budget_s: What the iteration may take.

        Returns:
            -1 where no batch of so many keeps it; None where that cannot be told.
        """
        ...


@runtime_checkable
class TellsPrefill(Protocol):
    """What a snapshot is beside that if many prompts at one clock cost it little."""

    def prefill_mean(self, clock_mhz: float) -> Callable[[int, float], float]:
        """The mean of a prefill batch as a function of its tokens and their attended pairs."""
        ...


@runtime_checkable
class TellsBatches(Protocol):
    """What a snapshot is beside that if many decode batches cost it little more than one."""

    def forecast_batches(
        self, requests: FloatArray, kv_tokens: FloatArray, clocks_mhz: FloatArray
    ) -> tuple[Table, Table]:
        """What `forecast` yields for each decode batch, up to rounding.

        Args:
            requests: Requests of each batch, shape (b,).
            kv_tokens: Tokens in their KV caches, shape (b,).
            clocks_mhz: Shape (n,), ascending.

        Returns:
            Mean and upper bound, each of shape (b, n), in seconds.
        """
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
class PowerForecasts(Protocol):
    """Anything that can forecast power: a live predictor or a frozen snapshot of one."""

    def forecast_w(self, load: Load, clocks_mhz: FloatArray) -> FloatArray:
        """Mean power in watts of all devices of the instance at every clock; mutates nothing."""
        ...


class PowerCurve(Protocol):
    """Power of one load against the clock, one clock at a time; never falls with it."""

    def power_w(self, clock_mhz: float) -> float:
        """What `forecast_w` has there, up to rounding."""
        ...


@runtime_checkable
class TellsPowerCurve(Protocol):
    """What a power model is beside that if a few clocks cost it less than a whole forecast."""

    def power_curve(self, load: Load) -> PowerCurve | None:
        """The power of `load`; None where it may fall somewhere."""
        ...


@runtime_checkable
class PowerSnapshot(PowerForecasts, Protocol):
    """A frozen, serialisable copy of a power predictor."""

    def to_dict(self) -> Mapping[str, object]:
        """The snapshot as plain JSON values."""
        ...


@runtime_checkable
class PowerPredictor(PowerForecasts, Protocol):
    """Power model that learns from windows of the energy counter, not from iterations."""

    def learn_window(self, energy_j: float, exposures: Sequence[Exposure]) -> None:
        """Learn from the energy of one window and what ran in it, idle stretches included."""
        ...


@runtime_checkable
class FreezesPower(Protocol):
    """What a power predictor is beside that if routers in other processes are to plan on it."""

    def snapshot(self) -> PowerSnapshot:
        """A frozen copy; later learning does not change it."""
        ...


@runtime_checkable
class HoldsPredictor(Protocol):
    """What a controller is beside that if it brings the latency model that it decides by."""

    @property
    def predictor(self) -> Predictor | None:
        """The latency model."""
        ...


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


@runtime_checkable
class Reopens(Protocol):
    """What a predictor is beside that if what it learned can be doubted, as on drift."""

    def reopen(self, factor: float = 100.0, relative_error: float = 0.3) -> None:
        """Widen the bound to at least `relative_error` and let the coefficients move again."""
        ...


@runtime_checkable
class Restorable(Protocol):
    """What a predictor is beside that if an agent can keep what it learned over a restart."""

    def to_dict(self) -> Mapping[str, object]:
        """What it learned, as plain JSON values."""
        ...

    def restore(self, values: Mapping[str, object]) -> None:
        """Learn what `to_dict` of an earlier one gave."""
        ...


@runtime_checkable
class Closable(Protocol):
    """What a sensor is beside that if it holds something of the device."""

    def close(self) -> None:
        """Let go of it; may be called twice."""
        ...


@runtime_checkable
class Router(Protocol):
    """Chooses an instance for a request; pure, and keeps no ledger of its own."""

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str | Deferral:
        """Name one of `candidates` (never empty, all of one role), or defer the request.

        A request whose `Request.slack_s` is 0 is not deferred.

        Raises:
            RoutingError: If none of them can take the request.
        """
        ...


@runtime_checkable
class Needy(Protocol):
    """What a router is beside that if it falls back to something simpler where models are missing.

    Whoever runs it says so where a candidate lacks what it needs.
    """

    @property
    def needs(self) -> frozenset[Need]:
        """What it needs of every candidate; may be a plain class attribute."""
        ...


def needs_of(router: Router) -> frozenset[Need]:
    """What a router says that it needs; nothing where it says nothing."""
    return router.needs if isinstance(router, Needy) else frozenset()


@runtime_checkable
class Defers(Protocol):
    """What a router is beside that if it may defer requests that have some slack.

    Beside an engine a router that does not say so is shown no slack, and so defers nothing.
    """

    @property
    def defers(self) -> bool:
        """Whether it does; may be a plain class attribute."""
        ...


def may_defer(router: Router) -> bool:
    """Whether a router says that it defers."""
    return isinstance(router, Defers) and router.defers


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
