"""Thresholds, budgets and attainment."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.errors import ConfigError
from voltana.slo import Slo, attainment
from voltana.values import Queue

SLO = Slo(ttft_s=0.6, itl_s=0.06)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ttft_s": 0.0}, ["ttft_s = 0.0", "above 0 s", "seconds"]),
        ({"ttft_s": -1.0}, ["ttft_s = -1.0", "above 0 s"]),
        ({"itl_s": math.inf}, ["itl_s = inf", "finite"]),
        ({"itl_s": math.nan}, ["itl_s = nan", "above 0 s"]),
        ({"ttft_target": 1.0}, ["ttft_target = 1.0", "between 0 and 1", "0.99 means 99 %"]),
        ({"itl_target": 99.0}, ["itl_target = 99.0", "between 0 and 1"]),
        ({"itl_target": math.nan}, ["itl_target = nan"]),
    ],
)
def test_impossible_objectives_are_refused(fields, words):
    with pytest.raises(ConfigError) as caught:
        Slo(**({"ttft_s": 0.6, "itl_s": 0.06} | fields))
    for word in words:
        assert word in str(caught.value)


@given(st.floats(0, 1e4))
def test_waiting_eats_the_prefill_budget_and_nothing_eats_the_decode_budget(wait_s):
    queue = Queue(requests=1, oldest_wait_s=wait_s)
    assert SLO.prefill_budget_s(queue) == pytest.approx(0.6 - wait_s)
    assert (SLO.prefill_budget_s(queue) < 0) == (wait_s > 0.6)
    assert SLO.decode_budget_s() == 0.06


def test_attainment_by_hand():
    kept = attainment(
        SLO,
        ttft_s=np.array([0.1, 0.6, 0.61, math.inf]),
        mean_itl_s=np.array([0.06, 0.07]),
        itl_s=np.array([0.01, 0.02, 0.5]),
    )
    assert kept.ttft == 0.5
    assert kept.itl == 0.5
    assert kept.itl_tokens == pytest.approx(2 / 3)


def test_attainment_of_nothing_is_unknown():
    empty = np.array([])
    kept = attainment(SLO, ttft_s=empty, mean_itl_s=empty, itl_s=empty)
    assert all(math.isnan(share) for share in (kept.ttft, kept.itl, kept.itl_tokens))


@given(st.lists(st.tuples(st.floats(0.001, 0.2), st.integers(1, 9)), min_size=1, max_size=20))
def test_gaps_that_many_tokens_had_count_as_often(gaps):
    itl_s = np.array([gap_s for gap_s, _ in gaps])
    tokens = np.array([count for _, count in gaps])
    none = np.array([])
    counted = attainment(SLO, ttft_s=none, mean_itl_s=none, itl_s=itl_s, itl_tokens=tokens)
    spelled = attainment(SLO, ttft_s=none, mean_itl_s=none, itl_s=np.repeat(itl_s, tokens))
    assert counted.itl_tokens == pytest.approx(spelled.itl_tokens)
