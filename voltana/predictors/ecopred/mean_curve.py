"""The mean of one load against the clock, and of decode batches against their KV tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.predictors.ecopred.phase_model import PhaseModel


class MeanCurve(NamedTuple):
    """Expected latency of one load against the clock; never rises with it.

    Attributes:
        phase: The model of its phase.
        features: Its features.
        max_clock_mhz: Clock at which f_max / f is 1.
        known: Whether a bound may stand on it.
    """

    phase: PhaseModel
    features: Sequence[float]
    max_clock_mhz: float
    known: bool = True

    def mean_s(self, clock_mhz: float) -> float:
        """Expected latency at one clock."""
        phase, (iteration, rows, halves, tiles, experts, last), max_clock_mhz, _ = self
        of_iteration, of_rows, of_halves, of_tiles, of_experts, of_last = phase.rates(
            clock_mhz, max_clock_mhz
        )
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
