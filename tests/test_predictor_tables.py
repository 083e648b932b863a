"""The published tables, and how they are profiled."""

import json
import math
import re

import numpy as np
import pytest

from voltana.errors import ConfigError, ProfileError
from voltana.predictors.profile import Stack
from voltana.predictors.tables import (
    TablePredictor,
    holds_tables,
    load_tables,
    profile_tables,
    save_tables,
    tile_bounds,
    tile_index,
)
from voltana.testing import samples
from voltana.values import Load, Role

CLOCKS_MHZ = np.array([1005.0, 1410.0])


class Bench:
    """The linear plant plus a step of 36 % at each batch tile of 128, with noise."""

    def __init__(self, noise=0.03):
        self.calls = 0
        self._noise = noise
        self._rng = np.random.default_rng(0)

    def exact_s(self, load, clock_mhz):
        steps = max(0, math.ceil(load.decode_requests / 128) - 1)
        return samples.linear_latency_s(load, clock_mhz) * (1.0 + 0.36 * steps)

    def measure_s(self, load, clock_mhz):
        self.calls += 1
        return self.exact_s(load, clock_mhz) * float(np.exp(self._rng.normal(0, self._noise)))


@pytest.mark.parametrize(
    ("requests", "index"), [(1, 0), (8, 0), (9, 1), (128, 15), (129, 16), (256, 16), (257, 17)]
)
def test_tiles_are_those_published(requests, index):
    assert tile_index(requests) == index
    low, high = tile_bounds(index)
    assert low <= requests <= high


@pytest.fixture(scope="module")
def profiled():
    bench = Bench()
    return bench, profile_tables(bench, Role.COLOCATED, (1410.0, 1005.0))


def test_profiling_takes_a_few_thousand_measurements(profiled):
    bench, predictor = profiled
    assert bench.calls < 5000
    assert predictor.clocks_mhz.tolist() == [1005.0, 1410.0]


@pytest.mark.parametrize("requests", [1, 60, 128, 129, 300])
def test_decode_latency_is_found_in_each_tile(profiled, requests):
    bench, predictor = profiled
    load = Load.decode(requests, requests * 700)
    mean_s = predictor.forecast(load, CLOCKS_MHZ).mean_s
    exact_s = [bench.exact_s(load, mhz) for mhz in CLOCKS_MHZ]
    assert mean_s == pytest.approx(exact_s, rel=0.06)


def test_the_step_at_a_tile_boundary_is_there(profiled):
    _, predictor = profiled
    below, above = (
        float(predictor.forecast(Load.decode(n, 90_000), CLOCKS_MHZ).mean_s[1]) for n in (128, 129)
    )
    assert above / below == pytest.approx(1.36, abs=0.06)


def test_prefill_latency_is_linear_in_tokens(profiled):
    bench, predictor = profiled
    load = Load.prefill([(250, 0)] * 8)
    mean_s = predictor.forecast(load, CLOCKS_MHZ).mean_s
    assert mean_s == pytest.approx([bench.exact_s(load, mhz) for mhz in CLOCKS_MHZ], rel=0.1)


def test_between_profiled_clocks_the_slower_table_holds_and_below_nothing_is_known(profiled):
    _, predictor = profiled
    clocks = np.array([1004.0, 1005.0, 1200.0, 1410.0, 1500.0])
    mean_s = predictor.forecast(Load.decode(10, 1000), clocks).mean_s
    assert mean_s[0] == math.inf
    assert mean_s[1] == mean_s[2] > mean_s[3] == mean_s[4]


def test_it_has_no_bound_of_its_own(profiled):
    _, predictor = profiled
    forecast = predictor.forecast(Load.decode(10, 1000), CLOCKS_MHZ)
    assert (forecast.upper_s == forecast.mean_s).all()


def test_a_phase_that_was_not_profiled_is_unknown():
    predictor = profile_tables(Bench(), Role.PREFILL, (1410.0,), repeats=1)
    for load in (Load.decode(1, 10), samples.LOADS["a mixed batch"]):
        assert predictor.forecast(load, CLOCKS_MHZ).mean_s[1] == math.inf
    predictor = profile_tables(Bench(), Role.DECODE, (1410.0,), repeats=1, max_batch=64)
    assert predictor.forecast(Load.prefill([(10, 0)]), CLOCKS_MHZ).mean_s[1] == math.inf


def test_slopes_are_not_negative(profiled):
    _, predictor = profiled
    assert (predictor.prefill >= 0).all()
    assert (predictor.decode >= 0).all()


def test_stalls_do_not_spoil_the_tables():
    class Stalling(Bench):
        def measure_s(self, load, clock_mhz):
            measured_s = super().measure_s(load, clock_mhz)
            return 20 * measured_s if self.calls % 15 == 0 else measured_s

    bench = Stalling()
    predictor = profile_tables(bench, Role.DECODE, (1410.0,), max_batch=128)
    load = Load.decode(60, 40_000)
    exact_s = bench.exact_s(load, 1410.0)
    assert predictor.forecast(load, CLOCKS_MHZ).mean_s[1] == pytest.approx(exact_s, rel=0.1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"clocks_mhz": np.array([2.0, 1.0])}, "must be ascending"),
        ({"clocks_mhz": np.array([])}, "must be ascending"),
        ({"prefill": np.zeros((1, 2))}, "prefill = (1, 2) is not allowed: must be of shape (2, "),
        ({"decode": np.zeros((2, 5, 2))}, "decode = (2, 5, 2) is not allowed"),
        (
            {"decode": np.zeros((2, 3))},
            "decode = (2, 3) is not allowed: must be of shape (2, tiles",
        ),
        ({"decode": np.zeros((2, 0, 3))}, "decode = (2, 0, 3) is not allowed"),
        ({"prefill": np.zeros(())}, "prefill = () is not allowed"),
    ],
)
def test_refuses_tables_that_do_not_fit(options, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        TablePredictor(**({"clocks_mhz": CLOCKS_MHZ} | options))


def test_refuses_to_profile_nothing():
    with pytest.raises(ConfigError, match="must be one clock or more"):
        profile_tables(Bench(), Role.DECODE, ())
    with pytest.raises(ConfigError, match="must be at least 1"):
        profile_tables(Bench(), Role.DECODE, (1410.0,), repeats=0)


STACK = Stack(hardware="a100", model="llama", engine="sglang", engine_version="1")


def test_tables_are_the_same_from_their_file(profiled, tmp_path):
    _, predictor = profiled
    save_tables(predictor, STACK, path := tmp_path / "tables.json")
    assert holds_tables(path)
    again = load_tables(path, STACK)
    for load in (Load.decode(60, 40_000), Load.prefill([(700, 0)]), Load.decode(300, 200_000)):
        one, other = (one.forecast(load, CLOCKS_MHZ) for one in (predictor, again))
        np.testing.assert_array_equal(one.mean_s, other.mean_s)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"stack": {"model": "other"}}, "stack.model = 'other' is not allowed: must be 'llama'"),
        ({"stack": {"engine_version": "2"}}, "Tables learn nothing: profile this stack."),
        ({"version": 2}, "version = '2'"),
        ({"prefill": [[1.0, -1.0]] * 2}, "prefill.0.1 = '-1.0'"),
        ({"prefill": [[1.0, 1.0]]}, "prefill = (1, 2) is not allowed"),
        ({"clocks_mhz": [1410.0, 1005.0]}, "must be ascending"),
        ({"decode": [[], []]}, "decode = (2, 0) is not allowed"),
        ({"more": 1}, "more = '1'"),
    ],
)
def test_a_file_of_other_tables_is_refused(profiled, tmp_path, change, text):
    save_tables(profiled[1], STACK, path := tmp_path / "tables.json")
    values = json.loads(path.read_text())
    changed = {k: (values[k] | v if isinstance(v, dict) else v) for k, v in change.items()}
    path.write_text(json.dumps(values | changed))
    with pytest.raises(ProfileError, match=re.escape(text)):
        load_tables(path, STACK)


def test_what_is_no_file_of_tables(tmp_path):
    with pytest.raises(ProfileError, match="cannot be read: No such file"):
        load_tables(tmp_path / "none.json", STACK)
    (tmp_path / "half.json").write_text('{"format": "voltana-latency-tables"')
    with pytest.raises(ProfileError, match="are not allowed"):
        load_tables(tmp_path / "half.json", STACK)
    assert not holds_tables(tmp_path / "half.json")
    assert not holds_tables(tmp_path / "none.json")
