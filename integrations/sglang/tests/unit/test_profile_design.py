from __future__ import annotations

import numpy as np
import pytest

from voltana.errors import ConfigError
from voltana.predictors.features import decode_features, prefill_features, regressor
from voltana.serving.profile.design import (
    Limits,
    decode_candidates,
    design,
    prefill_candidates,
    spread,
)
from voltana.values import Phase

SMALL = Limits(max_requests=32, max_tokens=7372, max_context=2042, max_prefill_tokens=2048)
LARGE = Limits(max_requests=256, max_tokens=400_000, max_context=8192, max_prefill_tokens=8192)
LEVELS = tuple(210.0 + 15 * step for step in range(81))


def candidates(phase: Phase, limits: Limits, clocks: tuple[float, ...]):
    if phase is Phase.PREFILL:
        return prefill_candidates(limits, clocks)
    return decode_candidates(limits, clocks, steps=24)


def features(point):
    load = point.load()
    part = (
        prefill_features(load.prefill_tokens, load.prefill_attended_pairs)
        if point.phase is Phase.PREFILL
        else decode_features(load.decode_requests, load.decode_kv_tokens)
    )
    return regressor(part, point.clock_mhz, 1410.0)


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
@pytest.mark.parametrize("limits", [SMALL, LARGE])
def test_candidates_are_what_the_server_can_take(phase, limits) -> None:
    points = candidates(phase, limits, (1410.0,))
    assert len(points) > 10
    for point in points:
        assert 1 <= point.requests <= limits.max_requests
        assert point.prompt_tokens < limits.max_context
        assert point.requests * point.prompt_tokens <= limits.max_tokens
        if phase is Phase.PREFILL:
            assert point.requests * point.prompt_tokens <= limits.max_prefill_tokens


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
@pytest.mark.parametrize("clocks", [(1410.0,), spread(LEVELS, 5)])
def test_the_points_identify_all_that_the_candidates_can(phase, clocks) -> None:
    every = candidates(phase, LARGE, clocks)
    made = design(every, max_clock_mhz=1410.0)
    chosen = np.array([features(point) for point in made.fitted])
    whole = np.array([features(point) for point in every])
    scale = np.maximum(np.abs(whole).max(axis=0), 1e-300)
    assert np.linalg.matrix_rank(chosen / scale, tol=1e-7) == made.coefficients
    assert np.linalg.matrix_rank(whole / scale, tol=1e-7) == made.coefficients
    assert len(made.fitted) <= made.coefficients + 2
    assert not set(made.fitted) & set(made.held_back)
    assert len(made.held_back) >= 3


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
def test_the_points_tell_more_than_as_many_at_random(phase) -> None:
    every = candidates(phase, LARGE, spread(LEVELS, 5))
    made = design(every, max_clock_mhz=1410.0)
    whole = np.array([features(point) for point in every])
    scale = np.maximum(np.abs(whole).max(axis=0), 1e-300)

    def information(points) -> float:
        x = np.array([features(point) for point in points]) / scale
        return float(np.linalg.slogdet(x.T @ x + 1e-9 * np.eye(x.shape[1]))[1])

    rng = np.random.default_rng(0)
    random = [
        information([every[i] for i in rng.choice(len(every), len(made.fitted), replace=False)])
        for _ in range(20)
    ]
    assert information(made.fitted) > max(random)


def test_the_seed_chooses_what_is_held_back_and_nothing_else() -> None:
    every = candidates(Phase.DECODE, LARGE, (1410.0,))
    first, second = (design(every, max_clock_mhz=1410.0, seed=seed) for seed in (1, 2))
    assert first.fitted == second.fitted
    assert first.held_back != second.held_back
    assert design(every, max_clock_mhz=1410.0, seed=1) == first


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
@pytest.mark.parametrize("seed", range(10))
def test_what_is_held_back_spans_the_loads(phase, seed) -> None:
    every = candidates(phase, SMALL, (1410.0,))
    held_back = design(every, max_clock_mhz=1410.0, seed=seed).held_back
    x = np.array([features(point) for point in every])
    relative = x / np.maximum(x.max(axis=0), 1e-300)
    size = dict(zip(every, relative.mean(axis=1), strict=True))
    middle = np.median(list(size.values()))
    assert min(size[point] for point in held_back) < middle
    assert max(size[point] for point in held_back) > middle


def test_a_server_that_takes_hardly_anything_is_refused() -> None:
    tiny = Limits(max_requests=1, max_tokens=40, max_context=40, max_prefill_tokens=16)
    with pytest.raises(ConfigError, match=r"candidates = \d is not allowed"):
        design(prefill_candidates(tiny, (1410.0,)), max_clock_mhz=1410.0)


def test_spread_takes_both_ends_and_no_more_than_asked() -> None:
    assert spread(LEVELS, 2) == (210.0, 1410.0)
    five = spread(LEVELS, 5)
    assert len(five) == 5
    assert five[0] == 210.0
    assert five[-1] == 1410.0
    assert spread((900.0, 1000.0), 5) == (900.0, 1000.0)
