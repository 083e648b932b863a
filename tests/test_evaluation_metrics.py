"""The figures of a run, by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.records import instance, record
from voltana.evaluation.metrics import measure, weighted_percentiles
from voltana.slo import Slo

SLO = Slo(ttft_s=0.5, itl_s=0.1)


def figures(run=None, *, reference_energy_j=2000.0):
    return measure("mine", run or record(), SLO, reference_energy_j=reference_energy_j, wall_s=0.5)


def test_attainment_counts_an_unfinished_request_as_missed() -> None:
    result = figures()
    assert (result.requests_offered, result.requests_completed) == (4, 3)
    assert result.ttft_attainment == 2 / 4  # 100 and 200 ms; not 900 ms, not never
    assert result.itl_attainment == 2 / 3  # 100 ms twice; the request of one token has no gap
    assert result.itl_token_attainment == 100 / 110


def test_energy_by_role_and_what_was_saved() -> None:
    result = figures()
    assert (result.prefill_energy_j, result.decode_energy_j) == (300.0, 700.0)
    assert result.energy_j == 1000.0
    assert result.energy_saved_vs_static_max == pytest.approx(0.5)
    assert result.energy_per_request_j == pytest.approx(1000 / 3)
    assert result.energy_per_output_token_j == pytest.approx(1000 / 113)


def test_percentiles_are_over_tokens_and_over_offered_requests() -> None:
    result = figures()
    assert result.itl_p50_s == 0.1  # the median token, not the median of three distinct gaps
    assert result.itl_p99_s == 0.2
    assert result.ttft_p50_s == pytest.approx(0.2)
    assert result.ttft_p99_s == math.inf
    assert result.decide_p50_us == pytest.approx(20.0)


def test_counts_and_means_over_instances() -> None:
    run = record(
        instances=(
            instance("prefill-0", 1.0, mean_clock_mhz=1000.0, busy_s=2.0, clock_changes=1),
            instance("prefill-1", 1.0, mean_clock_mhz=1200.0, busy_s=4.0, clock_changes=5),
            instance("decode-0", 1.0, mean_clock_mhz=900.0, busy_s=10.0, retractions=2),
        )
    )
    result = figures(run)
    assert (result.prefill_clock_mhz, result.decode_clock_mhz) == (1100.0, 900.0)
    assert result.prefill_busy == pytest.approx(0.3)
    assert result.decode_busy == pytest.approx(1.0)
    assert result.clock_changes == 9
    assert result.retractions == 2
    assert result.certified_share == pytest.approx(0.6)
    assert result.saturated_share == pytest.approx(0.2)
    assert result.void_share == pytest.approx(0.2)


def test_json_has_null_where_a_figure_is_not_finite() -> None:
    none_served = record(
        arrival_s=(0.0,),
        first_token_s=(math.inf,),
        completed_s=(math.inf,),
        output_tokens=(9,),
        gap_s=(),
        gap_tokens=(),
        decide_s=(),
    )
    plain = json.loads(json.dumps(figures(none_served).to_dict(), allow_nan=False))
    assert plain["ttft_attainment"] == 0.0
    assert plain["itl_attainment"] == 0.0
    for key in ("ttft_p50_s", "itl_p50_s", "itl_token_attainment", "energy_per_request_j"):
        assert plain[key] is None


def test_no_saving_without_a_reference() -> None:
    assert figures(reference_energy_j=0.0).to_dict()["energy_saved_vs_static_max"] is None


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=1, max_size=30),
    st.floats(0, 100),
)
def test_weighted_percentile_is_that_of_the_repeated_values(pairs, percent) -> None:
    values = np.array([value for value, _ in pairs])
    weights = np.array([weight for _, weight in pairs])
    repeated = np.repeat(values, weights)
    (found,) = weighted_percentiles(values, (percent,), weights)
    assert np.mean(repeated <= found) >= percent / 100 - 1e-9
    assert np.mean(repeated < found) <= percent / 100 + 1e-9


def test_percentiles_of_nothing_are_nan() -> None:
    assert all(map(math.isnan, weighted_percentiles(np.array([]), (50, 99))))
