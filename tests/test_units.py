"""Energy in people's units: sums that have to agree, and prices that change while a run lasts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.cli.scenario_flags import tariffs
from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario
from voltana.evaluation.tariff import read_tariff
from voltana.evaluation.units import J_PER_KWH, spent, units


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
        ("0,1\n0,2\n", "ascending times"),
        ("5,1\n3,2\n", "ascending times"),
        ("0,1\n1\n", "row 2"),
        ("0,1\nsoon,2\n", "row 2"),
        ("0,1\n1,cheap\n", "row 2"),
        ("0,1\n1,nan\n", "row 2"),
        ("0,nan\n1,2\n", "row 1 of .* is '0,nan'.* finite"),
        ("0,1e400\n1,2\n", "row 1 of .* is '0,1e400'"),
        ("0;0,25\n1;0,3\n", "row 1"),
        ("0,1\n2026-01-01T00:00:00Z,2\n", "row 2 .* must all be seconds, or all ISO 8601"),
        ("2026-01-01T00:00:00Z,2\n7e9,3\n", "row 2 .* must all be seconds, or all ISO 8601"),
        ("0,1\n5,2e9\n", r"price = 2000000000\.0 is not allowed: must be -1e\+09 to 1e\+09 per"),
    ],
)
def test_a_file_that_is_no_series_is_refused(tmp_path, text, said):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_tariff("price", str(path))


@pytest.mark.parametrize("given", ["dear", "nan", "inf", "/no/such.csv"])
def test_what_is_neither_number_nor_file_is_refused(given):
    with pytest.raises(ConfigError, match="price = "):
        read_tariff("price", given)


@pytest.mark.parametrize("currency", ["", " ", "gCO2e", "GCO2E"])
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
