"""Which loads and clocks to measure: the fewest that identify the latency model.

Latency is linear in known features (`voltana.predictors.features`), so how well an experiment
identifies the coefficients is known before it is run: the determinant of its information matrix.
Points are taken greedily, each the one that multiplies the determinant most, until there are as
many as coefficients that can be told apart, and a few to spare. That is the sequential construction
of a D-optimal design (V. Fedorov, "Theory of Optimal Experiments", 1972; for linear models with a
given set of candidates H. Wynn, Annals of Mathematical Statistics 41, 1970).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.predictors.features import decode_features, prefill_features, regressor
from voltana.values import Load, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from voltana.values import FloatArray

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]

SPARE_POINTS = 2
"""More than coefficients, so that a model that does not fit shows."""

HELD_BACK_SHARE = 0.3
"""Points that are measured to test the fit alone, as a share of those that it is fitted to."""

LEAST_HELD_BACK = 3

_RIDGE = 1e-6
"""Information that is there before the first point, so that the determinant is never zero."""

_LEAST_LATENCY = 0.1
"""Latency of the smallest candidate as a share of that of the largest, roughly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the server can take.

    Attributes:
        max_requests: Requests in a batch.
        max_tokens: Tokens in the KV cache.
        max_context: Tokens of one request, its answer included.
        max_prefill_tokens: Prompt tokens of one iteration.
    """

    max_requests: int
    max_tokens: int
    max_context: int
    max_prefill_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One load at one clock.

    Attributes:
        phase: Prefill or decode.
        requests: Requests that are sent together.
        prompt_tokens: Tokens of each prompt.
        clock_mhz: Clock to run at.
    """

    phase: Phase
    requests: int
    prompt_tokens: int
    clock_mhz: float

    def load(self) -> Load:
        """What an iteration computes if all requests end up in one batch."""
        if self.phase is Phase.PREFILL:
            return Load.prefill([(self.prompt_tokens, 0)] * self.requests)
        return Load.decode(self.requests, self.requests * self.prompt_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """An experiment.

    Attributes:
        fitted: Points to fit the model to, in the order of their worth.
        held_back: Points to test it on.
        coefficients: How many coefficients the candidates can tell apart.
    """

    fitted: tuple[Point, ...]
    held_back: tuple[Point, ...]
    coefficients: int


def prefill_candidates(limits: Limits, clocks_mhz: Iterable[float]) -> list[Point]:
    """Prompts of every length that fits, one and several at a time."""
    longest = min(limits.max_prefill_tokens, limits.max_context - 1)
    return [
        Point(phase=Phase.PREFILL, requests=requests, prompt_tokens=tokens, clock_mhz=clock)
        for requests in _doubling(1, min(8, limits.max_requests))
        for tokens in _doubling(16, longest)
        if requests * tokens <= min(limits.max_prefill_tokens, limits.max_tokens)
        for clock in clocks_mhz
    ]


def decode_candidates(limits: Limits, clocks_mhz: Iterable[float], steps: int) -> list[Point]:
    """Batches of every size with contexts of every length that fits.

    Args:
        limits: What the server can take.
        clocks_mhz: Clocks to run at.
        steps: Tokens that each request will produce.
    """
    sizes = sorted({*_doubling(1, limits.max_requests), *_thirds(limits.max_requests)})
    return [
        Point(phase=Phase.DECODE, requests=requests, prompt_tokens=tokens, clock_mhz=clock)
        for requests in sizes
        for tokens in _doubling(16, limits.max_context - steps - 1)
        if requests * (tokens + steps) <= limits.max_tokens
        for clock in clocks_mhz
    ]


def design(candidates: Sequence[Point], *, max_clock_mhz: float, seed: int = 0) -> Design:
    """Choose the points to measure.

    Args:
        candidates: Points of one phase that can be measured.
        max_clock_mhz: Clock at which f_max / f is 1.
        seed: Of the choice of points that are held back.

    Raises:
        ConfigError: If there are too few candidates to hold any back.
    """
    if len(candidates) <= LEAST_HELD_BACK:
        raise invalid(
            "candidates",
            len(candidates),
            f"more than {LEAST_HELD_BACK} loads that the server can take",
            "Allow a larger batch or a longer context.",
        )
    relative = _relative(np.array([_features(point, max_clock_mhz) for point in candidates]))
    size = relative.mean(axis=1)
    # Noise grows with latency, so a small iteration tells more about what it is made of.
    x = relative / (_LEAST_LATENCY + size[:, None])
    rank = int(np.linalg.matrix_rank(x, tol=1e-6))
    spared = max(LEAST_HELD_BACK, round(HELD_BACK_SHARE * (rank + SPARE_POINTS)))
    wanted = min(rank + SPARE_POINTS, len(candidates) - LEAST_HELD_BACK)
    fitted = _greedy(x, wanted)
    rest = [index for index in np.argsort(size).tolist() if index not in fitted]
    held_back = _one_of_each_size(rest, min(spared, len(rest)), seed)
    return Design(
        fitted=tuple(candidates[index] for index in fitted),
        held_back=tuple(candidates[index] for index in held_back),
        coefficients=rank,
    )


def spread(levels_mhz: Sequence[float], count: int) -> tuple[float, ...]:
    """At most `count` of the levels, both ends among them, evenly over what a clock does: 1 / f."""
    if len(levels_mhz) <= count:
        return tuple(levels_mhz)
    wanted = 1.0 / np.linspace(1.0 / levels_mhz[-1], 1.0 / levels_mhz[0], count)
    nearest = {min(levels_mhz, key=lambda level: abs(level - clock)) for clock in wanted}
    return tuple(sorted(nearest))


def _greedy(x: Matrix, wanted: int) -> list[int]:
    """Rows that maximise the determinant of the information, one after the other."""
    covariance = np.eye(x.shape[1]) / _RIDGE
    taken: list[int] = []
    for _ in range(wanted):
        gain = np.einsum("ij,jk,ik->i", x, covariance, x)
        gain[taken] = -1.0
        best = int(gain.argmax())
        taken.append(best)
        direction = covariance @ x[best]
        covariance -= np.outer(direction, direction) / (1.0 + x[best] @ direction)
    return taken


def _one_of_each_size(by_size: Sequence[int], count: int, seed: int) -> list[int]:
    """A random one of each of `count` parts: points of one size would hide a wrong slope."""
    rng = np.random.default_rng(seed)
    return [int(rng.choice(part)) for part in np.array_split(by_size, count)]


def _relative(x: Matrix) -> Matrix:
    """Features in units of their largest."""
    relative: Matrix = x / np.maximum(np.abs(x).max(axis=0), 1e-300)
    return relative


def _features(point: Point, max_clock_mhz: float) -> FloatArray:
    load = point.load()
    if point.phase is Phase.PREFILL:
        features = prefill_features(load.prefill_tokens, load.prefill_attended_pairs)
    else:
        features = decode_features(load.decode_requests, load.decode_kv_tokens)
    return regressor(features, point.clock_mhz, max_clock_mhz)


def _doubling(first: int, last: int) -> list[int]:
    """`first`, twice that, and so on, up to `last` itself."""
    values = []
    while first < last:
        values.append(first)
        first *= 2
    return [*values, last] if last > 0 else values


def _thirds(last: int) -> list[int]:
    """Sizes between the powers of two, to tell a step from a slope."""
    return [size * 3 // 2 for size in _doubling(8, last) if size * 3 // 2 <= last]
