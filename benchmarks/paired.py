"""What a policy keeps less than the reference on the same traces, and whether that passes.

The reference of an attainment is the better of the fastest clock with the published routing and
with ours, seed by seed. Where it keeps at least 90 % on average, the mean shortfall may be one
point; elsewhere everybody misses much by chance, and the 95 % interval of the shortfall has to
include a value of at most one point.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.stats import t as student

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REFERENCES = ("static-max", "static-max-routed")
ATTAINMENTS = ("ttft_attainment", "itl_attainment", "itl_token_attainment")
SAVED = "energy_saved_vs_static_max"
SERVED = 0.90
ALLOWANCE = 0.01
ROUNDING = 5e-5
"""Half of what tables show."""

Figures = dict[str, float]
"""Figures of one run, by their names."""

Runs = dict[str, "list[Figures]"]
"""Runs of every policy, in the order of the seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """How much less than the reference is kept.

    Attributes:
        reference: What the reference keeps, on average.
        mean: Mean of the differences, seed by seed.
        half: Half of their 95 % interval; inf of a single seed.
    """

    reference: float
    mean: float
    half: float

    @property
    def passes(self) -> bool:
        """Whether it is as small as is asked for."""
        counted = self.mean
        if self.reference < SERVED and self.half < math.inf:
            counted -= self.half
        return counted <= ALLOWANCE + ROUNDING


def mean(runs: Sequence[Figures], column: str) -> float:
    """Mean of a figure over the seeds."""
    return statistics.fmean(run[column] for run in runs)


def interval_half(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean (Student's t); inf of one value."""
    if len(values) < 2:
        return math.inf
    error = statistics.stdev(values) / math.sqrt(len(values))
    return float(student.ppf(0.975, len(values) - 1)) * error


def shortfall(runs: Mapping[str, Sequence[Figures]], policy: str, column: str) -> Shortfall:
    """What `policy` keeps less than the reference."""
    references = [runs[name] for name in REFERENCES if name in runs]
    best = [max(run[column] for run in same) for same in zip(*references, strict=True)]
    less = [b - run[column] for b, run in zip(best, runs[policy], strict=True)]
    return Shortfall(
        reference=statistics.fmean(best), mean=statistics.fmean(less), half=interval_half(less)
    )


def keeps(runs: Mapping[str, Sequence[Figures]], policy: str) -> bool:
    """Whether a policy keeps every attainment as the reference does."""
    return all(shortfall(runs, policy, column).passes for column in ATTAINMENTS)


def verdict(runs: Mapping[str, Sequence[Figures]], ours: str, others: Mapping[str, float]) -> str:
    """What is missed, in words; "yes" where nothing is.

    Args:
        runs: By policy.
        ours: The policy that is judged.
        others: By how much less it may save than each of these, where they keep the attainments.
    """
    missed = []
    for column in ATTAINMENTS:
        short = shortfall(runs, ours, column)
        if not short.passes:
            missed.append(f"{column.removesuffix('_attainment')} {-100 * short.mean:.1f}")
    for other, allowed in others.items():
        if other not in runs or not keeps(runs, other):
            continue
        less = mean(runs[other], SAVED) - mean(runs[ours], SAVED)
        if less > allowed + ROUNDING:
            missed.append(f"saves {100 * less:.1f} less than {other}")
    return ", ".join(missed) or "yes"
