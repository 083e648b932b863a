"""Power learned from windows of energy."""

import re

import numpy as np
import pytest

from voltana.errors import ConfigError
from voltana.predictors.linear_power import LinearPower
from voltana.testing import samples
from voltana.values import Exposure, Load

MAX_MHZ = samples.CLOCKS_MHZ[-1]


def board_w(load, clock_mhz):
    """A board of another form than the model: V(f)^2 f with a voltage floor."""
    volts = max(0.69, 0.69 + 0.2 * (clock_mhz - 1020.0) / 390.0)
    dynamic = (volts / 0.89) ** 2 * clock_mhz / MAX_MHZ
    if load.prefill_tokens:
        activity = 1.0
    else:
        activity = 0.4 + 0.4 * min(load.decode_requests / 256, 1.0) if load.decode_requests else 0.0
    return 55.0 + 320.0 * activity * dynamic


def windows(count, seed=0, noise=0.02):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        exposures = []
        for _ in range(4):
            kind = rng.integers(3)
            load = (
                Load(),
                Load.decode(int(rng.integers(1, 256)), 1000),
                Load.prefill([(int(rng.integers(100, 4000)), 0)]),
            )[kind]
            clock_mhz = float(rng.choice(samples.CLOCKS_MHZ[40:]))
            exposures.append(
                Exposure(load=load, clock_mhz=clock_mhz, duration_s=float(rng.uniform(0.01, 0.1)))
            )
        energy_j = sum(board_w(e.load, e.clock_mhz) * e.duration_s for e in exposures)
        yield energy_j * float(np.exp(rng.normal(0, noise))), exposures


@pytest.fixture
def learned():
    power = LinearPower()
    for energy_j, exposures in windows(1500):
        power.learn_window(energy_j, exposures)
    return power


@pytest.mark.parametrize(
    "load",
    [Load(), Load.decode(8, 1000), Load.decode(200, 1000), Load.prefill([(2000, 0)])],
    ids=str,
)
def test_learns_a_board_of_another_form(learned, load):
    clocks = samples.clocks(41)
    exact_w = np.array([board_w(load, mhz) for mhz in clocks])
    assert np.abs(learned.forecast_w(load, clocks) / exact_w - 1).mean() < 0.12


def test_watts_rise_with_the_clock_and_the_load(learned):
    clocks = samples.clocks()
    for load in samples.LOADS.values():
        assert (np.diff(learned.forecast_w(load, clocks)) >= 0).all()
    few, many = (learned.forecast_w(Load.decode(n, 1000), clocks) for n in (4, 200))
    assert (many >= few).all()
    assert (few >= learned.forecast_w(Load(), clocks)).all()


def test_an_impossible_energy_is_an_error_of_the_counter(learned):
    load, clocks = Load.decode(64, 1000), samples.clocks(3)
    before = learned.forecast_w(load, clocks)
    exposures = [Exposure(load=load, clock_mhz=1410.0, duration_s=0.1)]
    for energy_j in (1e6, -1.0, float("nan"), 0.0):
        learned.learn_window(energy_j, exposures)
    learned.learn_window(30.0, [])
    learned.learn_window(30.0, [Exposure(load=load, clock_mhz=float("nan"), duration_s=0.1)])
    assert (learned.forecast_w(load, clocks) == before).all()


@pytest.mark.parametrize("field", ["max_clock_mhz", "max_power_w"])
def test_refuses_impossible_options(field):
    with pytest.raises(ConfigError, match=re.escape(f"{field} = 0.0 is not allowed")):
        LinearPower(**{field: 0.0})
