"""The latency of the simulated plant as labels for predictors: random loads, clocks and noise."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from voltana.plant.cluster import ClusterSpec
from voltana.plant.hardware import load_hardware
from voltana.plant.latency import LatencyModel
from voltana.plant.model import load_model
from voltana.slo import Slo
from voltana.values import Load, Outcome, Phase

NOISE = 0.035


class Case(NamedTuple):
    """A model on a device."""

    hardware: str
    model: str
    tensor_parallel: int

    def __str__(self) -> str:
        return f"{self.model} on {self.tensor_parallel} x {self.hardware}"

    @cache  # noqa: B019  (a few cases, for as long as the tests run)
    def datasheet(self) -> dict[str, float]:
        return ClusterSpec(
            hardware=load_hardware(self.hardware),
            model=load_model(self.model),
            tensor_parallel=self.tensor_parallel,
            prefill=1,
            decode=1,
            slo=Slo(ttft_s=0.6, itl_s=0.05),
        ).datasheet()

    def clocks_mhz(self, slowest_share: float) -> tuple[float, ...]:
        table = load_hardware(self.hardware).clocks_mhz
        return tuple(mhz for mhz in table if mhz >= slowest_share * table[-1])


@cache
def latency_model(case: Case) -> LatencyModel:
    return LatencyModel(load_hardware(case.hardware), load_model(case.model), case.tensor_parallel)


def random_load(rng: np.random.Generator, phase: Phase) -> Load:
    """Batches up to 256 requests of 50 to 1500 tokens; up to 8 heavy-tailed prompts."""
    if phase is Phase.DECODE:
        batch = int(rng.integers(1, 257))
        return Load.decode(batch, int(batch * rng.uniform(50, 1500)))
    lengths = np.clip(rng.lognormal(5.2, 0.9, rng.integers(1, 9)), 8, 4000)
    return Load.prefill((int(length), 0) for length in lengths)


@cache
def grid(case: Case, phase: Phase, seed: int, clock_mhz: float | None, slowest_share: float):
    """400 exact points (load, clock, latency), so that long runs need not compute them anew."""
    rng = np.random.default_rng(seed)
    clocks = (clock_mhz,) if clock_mhz else case.clocks_mhz(slowest_share)
    points = []
    for _ in range(400):
        load, mhz = random_load(rng, phase), float(rng.choice(clocks))
        points.append((load, mhz, latency_model(case).latency_s(load, mhz)))
    return points


def outcomes(
    case: Case,
    phase: Phase,
    count: int,
    *,
    seed: int,
    clock_mhz: float | None = None,
    slowest_share: float = 0.7,
):
    """`count` noisy labels."""
    rng = np.random.default_rng([seed, count])
    points = grid(case, phase, seed, clock_mhz, slowest_share)
    factors = np.exp(rng.normal(0, NOISE, count))
    for i, factor in enumerate(factors):
        load, mhz, latency_s = points[i % len(points)]
        yield Outcome(
            load=load, clock_mhz=mhz, latency_s=latency_s * float(factor), ended_at_s=0.02 * i
        )


def mean_errors(predictor, case: Case, phase: Phase, *, slowest_share: float = 0.7):
    """Mean absolute error in ms and mean relative error, against the exact latency."""
    absolute, relative = [], []
    for load, mhz, latency_s in grid(case, phase, 99, None, slowest_share):
        error_s = abs(float(predictor.forecast(load, np.array([mhz])).mean_s[0]) - latency_s)
        absolute.append(1e3 * error_s)
        relative.append(error_s / latency_s)
    return float(np.mean(absolute)), float(np.mean(relative))
