"""Room for KV tokens: what solving a line finds is what a search over the very bound would find."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voltana.predictors.conformal.room import MOST, most_within
from voltana.predictors.ecopred.mean_curve import MeanLine
from voltana.promise import bound_on

SMALLEST = 5e-324
SLOPES = st.one_of(st.just(0.0), st.sampled_from([SMALLEST, 1e-300, 1e-30]), st.floats(1e-12, 1e-4))


@given(
    fixed_s=st.floats(1e-4, 1.0),
    token_s=SLOPES,
    quantile=st.one_of(st.floats(0.0, 2.0), st.just(math.inf)),
    offset_s=st.floats(0.0, 0.1),
    budget_s=st.floats(1e-3, 1.0),
)
@example(fixed_s=0.06, token_s=0.0, quantile=0.1, offset_s=0.0, budget_s=0.05)  # no room at all
@example(fixed_s=0.06, token_s=SMALLEST, quantile=0.1, offset_s=0.0, budget_s=0.05)
@example(fixed_s=0.05, token_s=SMALLEST, quantile=0.0, offset_s=0.0, budget_s=0.05)
@example(fixed_s=0.05, token_s=0.0, quantile=0.0, offset_s=0.0, budget_s=0.05)
def test_one_token_more_does_not_fit(fixed_s, token_s, quantile, offset_s, budget_s):
    line = MeanLine(fixed_s, token_s)
    most = most_within(line, quantile, offset_s, budget_s)

    def fits(tokens):
        mean_s = line.mean_s(tokens)
        return mean_s <= budget_s and bound_on(mean_s, quantile, offset_s) <= budget_s

    assert -1 <= most <= MOST
    assert most < 0 or fits(most)
    assert most == MOST or not fits(most + 1)


@pytest.mark.parametrize("token_s", [0.0, SMALLEST])
def test_a_cache_that_costs_nothing_leaves_room_for_all_or_nothing(token_s):
    assert most_within(MeanLine(0.04, token_s), 0.1, 0.0, 0.05) == MOST
    assert most_within(MeanLine(0.06, token_s), 0.1, 0.0, 0.05) == -1
