"""Who forecasts latency, and what else a latency model may tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.values import FloatArray, Forecast, Load, Outcome, Table


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
class HoldsPredictor(Protocol):
    """What a controller is beside that if it brings the latency model that it decides by."""

    @property
    def predictor(self) -> Predictor | None:
        """The latency model."""
        ...
