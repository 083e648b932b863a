"""The least slack of a batch against that of each of its requests, worked out one by one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.cluster.least_slack import LeastSlack
from voltana.errors import ConfigError
from voltana.slo import Slo

ITL_S = 0.05
STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.01, 0.05, 0.06, 0.2])),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(STEPS, st.sampled_from([0.0, 0.005, 1.0]))
def test_it_is_the_least_of_all_and_spends_no_more_than_its_share(steps, share):
    slack, running, now_s, born = LeastSlack(ITL_S, share), {}, 100.0, 0
    spent = tokens = 0
    for joins, leaves, wanted_s in steps:
        for _ in range(joins):
            slack.join(born, now_s)
            running[born] = (now_s, 0)
            born += 1
        for key in list(running)[:leaves]:
            slack.leave(key)
            del running[key]
        if not running:
            assert math.isnan(slack.of(1, now_s))
            continue
        least_s = min(ITL_S * (n + 1) - (now_s - first_s) for first_s, n in running.values())
        told_s = slack.of(len(running), now_s)
        assert math.isnan(slack.of(len(running) + 1, now_s))  # one of them is not known
        assert told_s == pytest.approx(least_s) or told_s == ITL_S < least_s
        gap_s = told_s if told_s > ITL_S else min(wanted_s, ITL_S)  # spends all of it
        spent += len(running) if told_s > ITL_S else 0
        now_s += gap_s
        tokens += len(running)
        slack.produced(len(running), gap_s)
        running = {key: (first_s, n + 1) for key, (first_s, n) in running.items()}
        assert spent <= share * tokens + 1e-9
    slack.clear()
    assert math.isnan(slack.of(1, now_s))


@pytest.mark.parametrize(
    ("slack_s", "budget_s"),
    [(math.nan, 0.05), (0.01, 0.05), (0.05, 0.05), (0.06, 0.06), (9.0, 0.075)],
)
def test_a_budget_is_the_slack_between_the_threshold_and_half_as_much_again(slack_s, budget_s):
    slo = Slo(ttft_s=1.0, itl_s=ITL_S, spending=1.5)
    assert slo.decode_budget_s(slack_s) == pytest.approx(budget_s)
    assert Slo(ttft_s=1.0, itl_s=ITL_S).decode_budget_s(slack_s) == ITL_S


@pytest.mark.parametrize("spending", [0.9, 1.51, math.nan])
def test_no_more_may_be_spent_than_half_a_threshold(spending):
    with pytest.raises(ConfigError, match="spending"):
        Slo(ttft_s=1.0, itl_s=ITL_S, spending=spending)
