"""Rates over time, client by client: what is read, what is drawn, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.cli.main import app
from voltana.errors import ConfigError
from voltana.evaluation.sweep import make_plan
from voltana.plant.workload.arrivals import ArrivalProcess, ClientRates, read_client_rates
from voltana.plant.workload.arrivals.client_rates import GAMMA, WEIBULL, Window

SERVEGEN = (
    Path(__file__).parents[2] / "shared" / "data" / "servegen-m-small" / "client_rates.csv.gz"
)
HEAD = "chunk,timestamp_s,rate_rps,iat_cv,arrival_pattern,param1,param2\n"
TWO = HEAD + (
    "0,0,2,1,Gamma,1,9\n0,600,6,1,Gamma,1,9\n0,1200,0,0,,0,0\n"
    "1,0,0,0,,0,0\n1,600,4,2,Weibull,0.5,9\n1,1200,4,2,Weibull,0.5,9\n"
)


def drawn(process, rate_rps, duration_s, seed=0):
    return process.sample(rate_rps, duration_s, np.random.default_rng(seed))


@pytest.fixture
def two(tmp_path):
    (tmp_path / "rates.csv.gz").write_bytes(gzip.compress(TWO.encode()))
    return tmp_path / "rates.csv.gz"


def test_it_is_a_process_whose_rate_is_that_of_its_windows(two):
    process = read_client_rates(two)
    assert isinstance(process, ArrivalProcess)
    assert len(process.windows) == 4
    counts = np.array(
        [np.histogram(drawn(process, 4.0, 1800.0, seed), (0, 600, 1200, 1800))[0]
         for seed in range(40)]
    )  # fmt: skip
    mean, error = counts.mean(axis=0), counts.std(axis=0, ddof=1) / np.sqrt(40)
    recorded = np.array([2.0, 10.0, 4.0])
    assert np.all(np.abs(mean - recorded * 7200 / recorded.sum()) < 4 * error)


@given(
    rate=st.floats(0.05, 50),
    start=st.floats(0, 900),
    length=st.floats(1, 900),
    seed=st.integers(0, 2**32 - 1),
    gaps=st.tuples(st.sampled_from([GAMMA, WEIBULL]), st.floats(0.05, 20)),
)
@settings(max_examples=60, deadline=None)
def test_arrivals_ascend_within_the_run_and_repeat(rate, start, length, seed, gaps):
    windows = (Window(0, 900, 1.0, *gaps), Window(900, 1800, 3.0, GAMMA, 1.0))
    process = ClientRates(windows=windows, start_s=start)
    arrival_s = drawn(process, rate, length, seed)
    assert np.all((arrival_s >= 0) & (arrival_s < length))
    assert np.all(np.diff(arrival_s) >= 0)
    np.testing.assert_array_equal(arrival_s, drawn(process, rate, length, seed))


@pytest.mark.parametrize(("pattern", "shape"), [(GAMMA, 0.25), (WEIBULL, 0.5427)])
def test_gaps_keep_their_variation_and_their_mean(pattern, shape):
    process = ClientRates(windows=(Window(0, 20000, 1.0, pattern, shape),))
    samples = [drawn(process, 10.0, 20000.0, seed) for seed in range(6)]
    gaps = np.concatenate([np.diff(sample) for sample in samples])
    assert gaps.mean() == pytest.approx(0.1, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.05)
    counts = [len(drawn(process, 10.0, 20000.0, seed)) for seed in range(6)]
    assert np.mean(counts) == pytest.approx(200_000, rel=0.01)


def test_a_plain_table_of_times_and_rates_will_do(tmp_path):
    (tmp_path / "r.csv").write_text("timestamp_s,rate_rps\n0,1\n60,3\n")
    process = read_client_rates(tmp_path / "r.csv")
    assert process.windows == (Window(0, 60, 1, GAMMA, 1), Window(60, 120, 3, GAMMA, 1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lacks the column 'timestamp_s'; it has none"),
        ("time,rate\n0,1\n", "lacks the column 'timestamp_s'; it has time, rate"),
        ("timestamp_s,rate_rps\n0,1\n", "must ascend, over two rows or more"),
        ("timestamp_s,rate_rps\n60,1\n0,1\n", "must ascend"),
        ("timestamp_s,rate_rps\n0,fast\n60,1\n", "line 2: rate_rps = 'fast' is not allowed"),
        ("timestamp_s,rate_rps\n0,1\n60,-1\n", "line 3: rate_rps = '-1' is not allowed"),
        ("timestamp_s,rate_rps\n0,1\n60,nan\n", "line 3: rate_rps = 'nan' is not allowed"),
        ("timestamp_s,rate_rps\n0,1\n60\n", "line 3: rate_rps = None is not allowed"),
        ("timestamp_s,rate_rps\n0,0\n60,0\n", "no rate is above 0"),
        (HEAD + "0,0,1,1,Pareto,1,1\n0,60,1,1,,0,0\n", "arrival_pattern = 'pareto'"),
        ("\x1f\x8bx", "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_refused_with_line_and_remedy(tmp_path, text, said):
    path = tmp_path / "r.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=said) as caught:
        read_client_rates(path)
    assert "docs/workloads.md" in str(caught.value)


def test_a_run_beyond_the_record_or_where_nothing_came_is_refused(two):
    process = read_client_rates(two, 1500.0)
    with pytest.raises(ConfigError, match="at most 300 s, where the recorded rates end"):
        drawn(process, 4.0, 301.0)
    quiet = ClientRates(windows=(Window(600, 700, 1.0, GAMMA, 1.0),))
    with pytest.raises(ConfigError, match="something was recorded in the run"):
        drawn(quiet, 4.0, 60.0)


def test_the_command_takes_it_and_its_scenario_runs_again(two, tmp_path, capsys):
    out = tmp_path / "out"
    asked = ["--rates", str(two), "--rates-start", "600", "--rate", "3", "--duration", "10"]
    asked += ["--policy", "static-max", "--prefill", "1", "--decode", "1"]
    app(["simulate", *asked, "--out", str(out), "--json", "-"], standalone_mode=False)
    first = json.loads(capsys.readouterr().out)
    assert first["scenario"]["workload"]["arrival"] == "rates"
    app(["simulate", str(out / "scenario.toml"), "--json", "-"], standalone_mode=False)
    again = json.loads(capsys.readouterr().out)
    assert again["results"][0]["energy_j"] == first["results"][0]["energy_j"]
    with pytest.raises(ConfigError, match="Use --arrival rates with --rates FILE"):
        app(["simulate", "--arrival", "rates"], standalone_mode=False)
    with pytest.raises(ConfigError, match="Use --arrival rates with --rates FILE"):
        app(["simulate", "--arrival", "gamma", "--rates", str(two)], standalone_mode=False)
    with pytest.raises(ConfigError, match=r"left out without rates\. Give --rates\."):
        app(["simulate", "--rates-start", "5"], standalone_mode=False)
    with pytest.raises(ConfigError, match="no such file"):
        app(["simulate", "--rates", str(tmp_path / "none.csv")], standalone_mode=False)


def test_a_sweep_knows_a_scenario_by_the_content_of_its_rates(two):
    base = {"workload": {"arrival": "rates", "rates_file": str(two)}}
    before = make_plan(base, {"seed": [1]}).points[0].key
    two.write_bytes(TWO.replace("0,600,6", "0,600,7").encode())
    assert make_plan(base, {"seed": [1]}).points[0].key != before


@pytest.mark.data
@pytest.mark.skipif(not SERVEGEN.is_file(), reason="no ../shared/data here")
def test_servegen_s_second_day_at_four_requests_a_second():
    arrival_s = drawn(read_client_rates(SERVEGEN, 86_400.0), 4.0, 86_400.0, seed=1)
    assert len(arrival_s) == pytest.approx(4 * 86_400, rel=0.1)
    hours = np.histogram(arrival_s, 24, (0, 86_400))[0]
    assert hours.max() > 1.5 * hours.min()
