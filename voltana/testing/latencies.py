"""Latency sequences of every temper that a guarantee has to survive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import unknown_name

if TYPE_CHECKING:
    from voltana.values import FloatArray

BoolArray = np.ndarray[tuple[int], np.dtype[np.bool_]]

LATENCY_KINDS: tuple[str, ...] = (
    "stationary",
    "drifting",
    "bursty",
    "heavy-tailed",
    "periodic",
    "adversarial",
)


def latencies_s(kind: str, count: int, base_s: float, seed: int) -> FloatArray:
    """A sequence of iteration latencies.

    Args:
        kind: One of `LATENCY_KINDS`. Stationary: 5 % log-normal noise. Drifting: a ramp to up to
            three times the base, then a step back. Bursty: runs of four times the base.
            Heavy-tailed: Pareto with index 2.1. Periodic: a sine that doubles the base.
            Adversarial: calm for as long as it takes to be trusted, then ten times the base, in
            runs that grow.
        count: Length.
        base_s: Latency of a calm iteration.
        seed: Two sequences with one seed are equal.

    Returns:
        Shape (count,), in seconds, all above 0.

    Raises:
        UnknownNameError: If `kind` is none of these.
    """
    rng = np.random.default_rng(seed)
    steps = np.arange(count)
    noise = np.exp(rng.normal(0.0, 0.05, count))
    match kind:
        case "stationary":
            factor = np.ones(count)
        case "drifting":
            turn = max(1, int(count * rng.uniform(0.3, 0.9)))
            factor = np.where(steps < turn, 1.0 + 2.0 * steps / turn, 1.0)
        case "bursty":
            factor = np.where(_runs(rng, count, mean_length=12), 4.0, 1.0)
        case "heavy-tailed":
            factor = 1.0 + rng.pareto(2.1, count)
        case "periodic":
            period = rng.uniform(5.0, 60.0)
            factor = 1.5 + 0.5 * np.sin(2.0 * np.pi * steps / period)
        case "adversarial":
            cycle = int(rng.integers(5, 40))
            factor = np.where(steps % cycle < np.minimum(steps // cycle, cycle // 2), 10.0, 1.0)
        case _:
            raise unknown_name("kind of latency sequence", kind, list(LATENCY_KINDS))
    return np.asarray(base_s * factor * noise, dtype=np.float64)


def _runs(
    rng: np.random.Generator, count: int, mean_length: int
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Alternating runs of geometric length."""
    turns = rng.random(count) < 1.0 / mean_length
    return np.asarray(np.cumsum(turns) % 2 == 1)
