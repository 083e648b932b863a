"""Energy in people's units: sums that have to agree, and prices that change while a run lasts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from voltana.cli.main import app
from voltana.cli.scenario_flags import tariffs
from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario
from voltana.evaluation.tariff import read_tariff
from voltana.evaluation.units import J_PER_KWH, spent, units
from voltana.values import Role


@pytest.fixture(scope="module")
def run():
    tables = {
        "policies": ["voltana"],
        "cluster": {"prefill": 1, "decode": 2, "tensor_parallel": 2},
        "workload": {"rate_rps": 8.0, "duration_s": 5.0},
    }
    scenario = load_scenario(None, tables)
    return compare(scenario).runs[0], scenario


def test_the_units_agree_with_each_other_and_with_the_result(run):
    done, scenario = run
    found = units(done.record, scenario)
    energy_j = done.result.energy_j
    assert found["total_gpu_energy_j"] == energy_j
    assert found["total_gpu_energy_kwh"] * J_PER_KWH == pytest.approx(energy_j)
    assert found["prefill_gpu_energy_j"] + found["decode_gpu_energy_j"] == pytest.approx(energy_j)
    assert found["joules_per_output_token"] == done.result.energy_per_output_token_j
    assert found["joules_per_successful_query"] == done.result.energy_per_request_j
    assert found["avg_total_gpu_power_w"] == done.result.mean_power_w
    assert (found["num_prefill_gpu"], found["num_decode_gpu"]) == (2, 4)
    assert found["avg_power_w"] * 6 == pytest.approx(found["avg_total_gpu_power_w"])
    by_role = 2 * found["prefill_avg_power_w"] + 4 * found["decode_avg_power_w"]
    assert by_role == pytest.approx(found["avg_total_gpu_power_w"])
    tokens = 1 / found["joules_per_input_token"] + 1 / found["joules_per_output_token"]
    assert found["joules_per_total_token"] == pytest.approx(1 / tokens)
    by_request = (found["prefill_joules_per_successful_query"],
                  found["decode_joules_per_successful_query"])  # fmt: skip
    assert sum(by_request) == pytest.approx(found["joules_per_successful_query"])


def test_a_simulation_says_that_no_sensor_measured_it(run):
    found = units(*((run[0].record, run[1])))
    assert found["power_valid"] == 0
    assert found["source"].startswith("simulated: power model")


def test_a_constant_price_is_a_price_times_energy(run):
    record = run[0].record
    assert spent(record, read_tariff("price", "0.25")) == pytest.approx(
        0.25 * record.energy_j() / J_PER_KWH
    )


@given(st.lists(st.floats(-1, 2), min_size=1, max_size=6), st.integers(1, 4))
def test_a_price_over_time_is_a_sum_over_its_stretches(tmp_path_factory, run, prices, step_s):
    record = run[0].record
    path = tmp_path_factory.mktemp("prices") / "p.csv"
    rows = [f"{index * step_s},{price}" for index, price in enumerate(prices)]
    path.write_text("time_s,price\n" + "\n".join(rows) + "\n")
    wanted = 0.0
    for second, watts in enumerate(record.power_w):
        wanted += watts * prices[min(second // step_s, len(prices) - 1)]
    rest_j = record.energy_j() - record.power_w.sum()
    wanted += rest_j * prices[min(int(record.end_s // step_s), len(prices) - 1)]
    assert spent(record, read_tariff("price", str(path))) == pytest.approx(wanted / J_PER_KWH)


def test_times_may_be_dates_of_which_the_first_is_the_start(tmp_path):
    path = tmp_path / "carbon.csv"
    path.write_text("2026-01-01T00:00:00Z,300\n2026-01-01T01:00:00+00:00,120\n")
    tariff = read_tariff("carbon", str(path))
    assert tariff.from_s.tolist() == [0.0, 3600.0]
    assert tariff.at(np.array([-5.0, 0.0, 3599.9, 3600.0, 1e9])).tolist() == [
        300,
        300,
        300,
        120,
        120,
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must hold at least one row"),
        ("time,price\n", "must hold at least one row"),
        ("0,1\n0,2\n", "row 2 .* '0', which is not after .* ascending times"),
        ("time,price\n\n5,1\n3,2\n", "row 4 .* '3', which is not after .* ascending times"),
        ("0,1\n1\n", "row 2"),
        ("0,1\nsoon,2\n", "row 2"),
        ("0,1\n1,cheap\n", "row 2"),
        ("0,1\n1,nan\n", "row 2"),
        ("0,nan\n1,2\n", "row 1 of .* is '0,nan'.* finite"),
        ("0,1e400\n1,2\n", "row 1 of .* is '0,1e400'"),
        ("0;0,25\n1;0,3\n", "row 1"),
        ("0;0.25\n", "row 1 .* is '0;0.25'.* with a comma between"),
        ("29.03.2026 00:00;0.25\n29.03.2026 01:00;0.3\n", "row 1"),
        ("time,price\n0,1\n1,x\n", "row 3"),
        (
            "2026-03-29T00:00:00,1\n2026-03-29T03:00:00+02:00,2\n",
            "row 2 .* with a zone.* without a zone: must all be",
        ),
        ("0,1\n2026-01-01T00:00:00Z,2\n", "row 2 .* must all be seconds, or all ISO 8601"),
        ("2026-01-01T00:00:00Z,2\n7e9,3\n", "row 2 .* must all be seconds, or all ISO 8601"),
        ("0,1\n5,2e9\n", r"price = 2000000000\.0 is not .* 1e\+09 per kWh \(from 5 s on\)"),
    ],
)
def test_a_file_that_is_no_series_is_refused(tmp_path, text, said):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_tariff("price", str(path))


@pytest.mark.parametrize(
    ("clocks", "from_s"),
    [
        (("01:00+01:00", "03:00+02:00", "04:00+02:00"), [0.0, 3600.0, 7200.0]),  # to summer time
        (("01:00+02:00", "02:30+02:00", "02:30+01:00"), [0.0, 5400.0, 9000.0]),  # and back
    ],
)
def test_hours_follow_each_other_where_clocks_are_changed(tmp_path, clocks, from_s):
    path = tmp_path / "p.csv"
    path.write_text("".join(f"2026-03-29T{clock},{place}\n" for place, clock in enumerate(clocks)))
    assert read_tariff("price", str(path)).from_s.tolist() == from_s


def test_a_series_that_begins_after_the_run_is_refused_before_it(tmp_path):
    path = tmp_path / "epoch.csv"
    path.write_text("1790000000,0.3\n1790003600,0.4\n")
    tariff = read_tariff("price", str(path))
    with pytest.raises(ConfigError, match=r"'epoch.csv' begins at 1790000000 s.* ISO 8601"):
        tariff.check_begins(120.0)
    tariff.check_begins(1790000000.0)


def test_a_series_is_said_to_end_before_a_run_once_no_row_lasts_so_long(tmp_path):
    path = tmp_path / "hours.csv"
    path.write_text("0,0.3\n3600,0.4\n7200,0.2\n")
    tariff = read_tariff("price", str(path))
    assert [tariff.ends_before(end_s) for end_s in (60.0, 10800.0, 10801.0)] == [False, False, True]
    assert not read_tariff("price", "0.3").ends_before(1e9)


def test_a_command_says_which_price_it_took_on_and_refuses_times_of_something_else(tmp_path):
    run = ["simulate", "--policy", "static-max", "--rate", "5", "--duration", "4", "--price"]
    (tmp_path / "short.csv").write_text("0,0.3\n1,0.4\n")
    (tmp_path / "epoch.csv").write_text("1790000000,0.3\n")
    said = CliRunner().invoke(app, [*run, str(tmp_path / "short.csv")])
    assert said.exit_code == 0
    assert "the last row of short.csv (EUR) begins at 1 s, and the run ends at" in said.stderr
    with pytest.raises(ConfigError, match="begins at 1790000000 s"):
        CliRunner().invoke(
            app, [*run, str(tmp_path / "epoch.csv")], catch_exceptions=False, standalone_mode=False
        )


CLUSTERS = [
    {"prefill": 1, "decode": 2, "tensor_parallel": 2},
    {"colocated": 2},
    {"prefill": 1, "decode": 1, "colocated": 1},
]


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_units_are_an_independent_sum_over_iterations_and_idle_stretches(cluster):
    tables = {
        "policies": ["static-max"],
        "cluster": cluster,
        "workload": {"rate_rps": 8.0, "duration_s": 5.0},
    }
    scenario = load_scenario(None, tables)
    record = compare(scenario, record_timelines=True).runs[0].record
    idle_w = scenario.plant.idle_power_w(scenario.cluster.hardware.clocks_mhz[-1])
    sums_j = dict.fromkeys(Role, 0.0)
    for instance in record.instances:
        rows = instance.timeline
        idle_s = record.end_s - float(rows.latency_s.sum())
        sums_j[instance.role] += float(rows.latency_s @ rows.power_w) + idle_s * idle_w
    found = units(record, scenario)
    assert found["total_gpu_energy_j"] == pytest.approx(sum(sums_j.values()), rel=1e-6)
    assert found["avg_total_gpu_power_w"] == pytest.approx(
        sum(sums_j.values()) / record.end_s, rel=1e-6
    )
    for role in Role:
        energy_j = found.get(f"{role.value}_gpu_energy_j", 0.0)
        assert energy_j == pytest.approx(sums_j[role], rel=1e-6)
    told = found["prefill_joules_per_input_token"], found["decode_joules_per_output_token"]
    assert told == (None, None) if cluster.get("colocated") else None not in told


@pytest.mark.parametrize("given", ["dear", "nan", "inf", "/no/such.csv", "", " "])
def test_what_is_neither_number_nor_file_is_refused(given):
    with pytest.raises(ConfigError, match="price = "):
        read_tariff("price", given)


@pytest.mark.parametrize("currency", ["", " ", "gCO2e", "GCO2E", "EUR\nUSD", "\x1b[31mEUR"])
def test_a_currency_that_hides_the_intensity_or_is_none_is_refused(currency):
    with pytest.raises(ConfigError, match=r"currency = .* must be a word other than gCO2e"):
        tariffs("0.3", currency, "300")


def test_a_price_whose_sum_could_be_no_number_is_refused():
    with pytest.raises(ConfigError, match=r"price = 1e\+308 is not allowed"):
        read_tariff("price", "1e308")


def test_nothing_is_divided_by_nothing(run):
    import dataclasses

    record = run[0].record
    none = dataclasses.replace(record, completed_s=np.full(len(record.completed_s), math.inf))
    assert units(none, run[1])["joules_per_output_token"] is None


def test_prices_may_be_negative_and_intensities_may_not(tmp_path):
    path = tmp_path / "series.csv"
    path.write_text("0,10\n60,-0.5\n")
    for asked in ("-0.5", str(path)):
        assert read_tariff("price", asked).per_kwh.min() == -0.5
        with pytest.raises(ConfigError, match=r"carbon = -0\.5 is not allowed"):
            read_tariff("carbon", asked)
