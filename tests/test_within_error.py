"""Levels that stay within the error of what is wanted, and how large that error is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.controllers.arriving_work import ArrivingWork
from voltana.controllers.within_error import within_error

SERVED = np.arange(1.0, 11.0)


def enough(wanted: float, error: float) -> np.ndarray:
    return np.array([wanted * (1 - error), wanted, wanted * (1 + error)])[:, None] <= SERVED


@given(
    wanted=st.floats(0.1, 20.0), error=st.floats(0.0, 1.0), in_force=st.integers(0, len(SERVED) - 1)
)
def test_a_level_stays_if_and_only_if_some_demand_within_the_error_asks_for_it(
    wanted: float, error: float, in_force: int
) -> None:
    index = within_error(enough(wanted, error), in_force)
    asked = {
        int(within_error(enough(demand, 0.0), -1))
        for demand in np.linspace(wanted * (1 - error), wanted * (1 + error), 400)
    }
    if min(asked) <= in_force <= max(asked):
        assert index == in_force
    else:
        assert index == within_error(enough(wanted, 0.0), -1)


def test_the_fastest_level_stands_for_enough_where_none_is() -> None:
    assert within_error(enough(100.0, 0.1), 3) == len(SERVED) - 1


def rates(fading_s: float, seconds: float, seed: int) -> tuple[float, float]:
    """What is measured of 20 prompts/s of 100 tokens on average, and its stated error."""
    rng = np.random.default_rng(seed)
    arriving, now_s = ArrivingWork(fading_s), 0.0
    while now_s < seconds:
        gap_s = float(rng.exponential(0.05))
        now_s += gap_s
        prompt = 1 + int(rng.exponential(100.0))
        arriving.note(prompt, prompt * (prompt + 1) / 2, now_s)
    return arriving.tokens_per_s, arriving.relative_error


@pytest.mark.parametrize("seconds", [2.0, 20.0])
def test_the_stated_error_is_that_of_the_mean_rate(seconds: float) -> None:
    """Of a compound Poisson process, young and old."""
    measured = np.array([rates(5.0, seconds, seed) for seed in range(400)])
    spread = float(np.std(measured[:, 0]) / np.mean(measured[:, 0]))
    stated = float(np.sqrt(np.mean(measured[:, 1] ** 2)))
    assert stated == pytest.approx(spread, rel=0.25)


def test_before_anything_arrived_nothing_is_known_of_the_rate() -> None:
    arriving = ArrivingWork(5.0)
    assert arriving.relative_error == 1.0
    arriving.note(100, 5050.0, 0.0)
    assert math.isfinite(arriving.relative_error)
    assert 0.0 < arriving.relative_error <= 1.0
