"""Arrival processes: rate, burstiness, prefixes, determinism."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.errors import ConfigError
from voltana.plant.workload.arrivals import ArrivalProcess, Diurnal, Gamma, Poisson, load_profile

PROCESSES = [
    Poisson(),
    Gamma(cv=0.4),
    Gamma(cv=1.0),
    Gamma(cv=3.0),
    Diurnal(profile=load_profile()),
    Diurnal(profile=(0.0, 1.0), period_s=20.0, start_s=5.0),
]


def sample(process: ArrivalProcess, rate_rps: float, duration_s: float, seed: int) -> np.ndarray:
    return process.sample(rate_rps, duration_s, np.random.default_rng(seed))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
class TestEveryProcess:
    def test_is_one_for_the_protocol(self, process: ArrivalProcess) -> None:
        assert isinstance(process, ArrivalProcess)

    @given(rate=st.floats(0.05, 200), duration=st.floats(0.01, 50), seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=40, deadline=None)
    def test_arrivals_ascend_within_the_run(
        self, process: ArrivalProcess, rate: float, duration: float, seed: int
    ) -> None:
        arrival_s = sample(process, rate, duration, seed)
        assert np.all(arrival_s >= 0)
        assert np.all(arrival_s < duration)
        assert np.all(np.diff(arrival_s) >= 0)

    def test_the_same_seed_gives_the_same_arrivals(self, process: ArrivalProcess) -> None:
        first, again = sample(process, 20, 30, 7), sample(process, 20, 30, 7)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, sample(process, 20, 30, 8))

    def test_the_mean_rate_is_as_asked(self, process: ArrivalProcess) -> None:
        counts = np.array([len(sample(process, 50, 40, seed)) for seed in range(60)])
        error = counts.std(ddof=1) / np.sqrt(len(counts))
        assert abs(counts.mean() - 2000) < 4 * error

    @pytest.mark.parametrize(
        ("rate", "duration", "field"),
        [
            (0, 10, "rate_rps"),
            (-1, 10, "rate_rps"),
            (float("nan"), 10, "rate_rps"),
            (float("inf"), 10, "rate_rps"),
            (1, 0, "duration_s"),
            (1, float("inf"), "duration_s"),
            (1e9, 1e9, r"rate_rps \* duration_s"),
        ],
    )
    def test_impossible_runs_are_refused(
        self, process: ArrivalProcess, rate: float, duration: float, field: str
    ) -> None:
        with pytest.raises(ConfigError, match=f"^{field} = .* must be "):
            sample(process, rate, duration, 0)


@pytest.mark.parametrize(
    "process", [Poisson(), Gamma(cv=2.5), Diurnal(profile=(1.0, 3.0), period_s=100.0)], ids=repr
)
def test_a_longer_run_begins_with_the_shorter_one(process: ArrivalProcess) -> None:
    short, long = sample(process, 30, 20, 3), sample(process, 30, 500, 3)
    np.testing.assert_array_equal(short, long[: len(short)])
    assert long[len(short)] >= 20


def test_poisson_stretches_one_pattern_over_rates() -> None:
    slow, fast = sample(Poisson(), 10, 100, 5), sample(Poisson(), 20, 50, 5)
    np.testing.assert_allclose(slow, 2 * fast)


@pytest.mark.parametrize("cv", [0.3, 1.0, 2.0, 4.0])
def test_gamma_gaps_have_the_coefficient_of_variation(cv: float) -> None:
    gaps_s = np.diff(sample(Gamma(cv=cv), 100, 3000, 11))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.05)


def test_gamma_starts_in_equilibrium() -> None:
    """Starting at an arrival would give (cv^2 - 1) / 2 = 12 requests more to every run."""
    counts = np.array([len(sample(Gamma(cv=5.0), 10, 5, seed)) for seed in range(4000)])
    assert abs(counts.mean() - 50) < 4 * counts.std() / np.sqrt(len(counts))


@pytest.mark.parametrize("cv", [0.0, -1.0, 31.0, float("nan"), float("inf")])
def test_gamma_refuses_an_impossible_cv(cv: float) -> None:
    with pytest.raises(ConfigError, match=r"^cv = .* above 0 and at most 30"):
        Gamma(cv=cv)


def test_diurnal_follows_its_profile() -> None:
    """A triangle wave: the share of a period's requests in each tenth is the profile's integral."""
    process = Diurnal(profile=(0.5, 1.5), period_s=10.0)
    arrival_s = sample(process, 200, 1000, 2)
    tenths = np.bincount((arrival_s % 10).astype(int), minlength=10) / len(arrival_s)
    middles = np.arange(10) + 0.5
    expected = (0.5 + np.minimum(middles, 10 - middles) / 5) / 10
    np.testing.assert_allclose(tenths, expected, atol=4 * np.sqrt(0.15 / len(arrival_s)))


def test_diurnal_may_start_inside_a_period() -> None:
    process = Diurnal(profile=(1.0, 0.0, 1.0, 2.0), period_s=40.0, start_s=30.0)
    np.testing.assert_allclose(process.relative_rate(np.array([0.0, 10.0, 20.0]), 40.0), [2, 1, 0])


@pytest.mark.parametrize(
    "arguments",
    [
        {"profile": ()},
        {"profile": (0.0, 0.0)},
        {"profile": (1.0, -1.0)},
        {"profile": (1.0, float("nan"))},
        {"profile": (1.0,), "period_s": 0.0},
        {"profile": (1.0,), "start_s": float("inf")},
    ],
)
def test_diurnal_refuses_impossible_parameters(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        Diurnal(**arguments)  # type: ignore[arg-type]


def test_the_shipped_day_has_a_quiet_night_and_a_busy_evening() -> None:
    profile = load_profile()
    assert len(profile) == 24
    assert np.mean(profile) == pytest.approx(1, abs=0.01)
    assert max(profile) > 1.2
    assert min(profile) < 0.8
