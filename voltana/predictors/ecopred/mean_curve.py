"""The mean of one load against the clock, and of decode batches against their KV tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.predictors.ecopred.phase_model import Rates


class MeanCurve(NamedTuple):
    """Expected latency of one load against the clock; never rises with it.

    Attributes:
        rates: Seconds per unit of each load feature, by clock.
        features: Its features.
        known: Whether a bound may stand on it.
    """

    rates: Rates
    features: Sequence[float]
    known: bool = True

    def mean_s(self, clock_mhz: float) -> float:
        """Expected latency at one clock."""
        rates, features, _ = self
        return mean_at_rates(rates[clock_mhz], features)


def mean_at_rates(rates: Sequence[float], features: Sequence[float]) -> float:
    """Expected latency of a load at the clock of some `MeanCurve.rates`.

    Args:
        rates: Seconds per unit of each load feature.
        features: The load's.
    """
    iteration, rows, halves, tiles, experts, last = features
    of_iteration, of_rows, of_halves, of_tiles, of_experts, of_last = rates
    fixed_s = of_iteration * iteration + of_rows * rows + of_halves * halves + of_tiles * tiles
    return fixed_s + of_experts * experts + of_last * last


class MeanLine(NamedTuple):
    """Expected latency of decode batches of so many requests at one clock, by their KV tokens.

    Attributes:
        fixed_s: Without any.
        token_s: For each.
    """

    fixed_s: float
    token_s: float

    def mean_s(self, kv_tokens: float) -> float:
        """What `MeanCurve.mean_s` says of that batch."""
        return self.fixed_s + self.token_s * kv_tokens
