"""The figure of the risk taken: right at every moment, under the assumption that it states."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.predictors.conformal import at_most, evidence
from voltana.predictors.conformal.risk import log_wealth

P = st.floats(0.001, 0.999)


@given(P, st.floats(0.0, 1.0), st.booleans())
def test_a_fair_bet_wins_nothing_on_average(odds, share, on_misses):
    """One label whose probability is at most (or at least) that of the odds."""
    p = odds * share if on_misses else odds + (1.0 - odds) * share
    wealth = [math.exp(log_wealth(m, 1, odds, on_misses=on_misses)) for m in (0, 1)]
    assert (1 - p) * wealth[0] + p * wealth[1] <= 1.0 + 1e-9


@given(st.integers(0, 200), st.integers(0, 5000), P, st.booleans())
def test_wealth_is_a_mean_over_stakes_in_plain_numbers(missed, hits, odds, on_misses):
    most = 1 / odds if on_misses else -1 / (1 - odds)
    logs = [
        missed * math.log(1 + stake * (1 - odds)) + hits * math.log(1 - stake * odds)
        for stake in (most * 2.0**-k for k in range(1, 13))
    ]
    expected = max(logs) + math.log(np.mean(np.exp(np.array(logs) - max(logs))))
    found = log_wealth(missed, missed + hits, odds, on_misses=on_misses)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_it_covers_the_truth_at_every_moment_of_nearly_every_run():
    rng, p, ever_wrong = np.random.default_rng(5), 0.02, 0
    for _ in range(200):
        missed = np.cumsum(rng.random(2000) < p)
        wrong = any(at_most(int(missed[n - 1]), n) < p for n in range(50, 2001, 150))
        ever_wrong += wrong
    assert ever_wrong <= 0.05 * 200


def test_it_narrows_with_labels_and_rises_with_misses():
    assert at_most(0, 0) == pytest.approx(1.0)
    assert at_most(0, 100) > at_most(0, 1000) > at_most(0, 10_000)
    assert at_most(0, 1000) < 0.011 < at_most(10, 1000)
    assert at_most(20, 1000) < at_most(40, 1000)


def test_evidence_grows_where_misses_are_too_many_and_never_overflows():
    assert evidence(0, 0, 0.01) == pytest.approx(1.0)
    assert evidence(10, 1000, 0.01) < 20.0
    assert evidence(60, 1000, 0.01) > 1e6
    assert math.isfinite(evidence(10_000, 10_000, 0.01))
