"""What requests have still to produce: learned from those that end, and what hangs on it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.filling_batch import exponential, filling
from tests.test_intended_demand import asked
from voltana.controllers.demand_envelope import OWED_TOKENS, DemandEnvelope
from voltana.controllers.owed_tokens import OwedTokens
from voltana.controllers.token_demand import TokenDemand
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario
from voltana.planning import GROWTH_TOKENS
from voltana.routers.marginal_energy import MarginalEnergy
from voltana.routers.viable_batch import CLEARED_S, ViableBatch

ITERATION_S = 0.03


def filled(mean_tokens, *, tells, per_s=20.0, seconds=40.0, seed=5):
    """An envelope that saw an empty instance get answers of a mean length; and what it gets."""
    envelope = DemandEnvelope()
    for iteration in filling(
        exponential(mean_tokens), per_s=per_s, seconds=seconds, iteration_s=ITERATION_S, seed=seed
    ):
        envelope.note(len(iteration.produced), iteration.at_s)
        for _ in range(iteration.ended if tells else 0):
            envelope.ended()
    return envelope, per_s * mean_tokens


@pytest.mark.parametrize("mean_tokens", [60.0, 200.0, 600.0])
def test_demand_is_known_while_an_instance_fills_whatever_answers_are_like(mean_tokens):
    envelope, demanded = filled(mean_tokens, tells=True, seconds=15.0)
    assert envelope.rate_per_s == pytest.approx(demanded, rel=0.3)
    assert envelope.owed_tokens == pytest.approx(mean_tokens, rel=0.35)


def test_where_no_request_tells_the_first_guess_stands():
    envelope, demanded = filled(600.0, tells=False, seconds=10.0)
    assert envelope.owed_tokens == OWED_TOKENS
    assert envelope.rate_per_s < 0.6 * demanded  # as it was before requests told


@given(st.integers(1, 2000), st.floats(0.005, 0.2), st.floats(1.0, 60.0))
def test_demand_of_a_constant_batch_is_what_it_produces(batch, iteration_s, fading_s):
    demand = TokenDemand(fading_s)
    for step in range(50):
        demand.note(batch, step * iteration_s)
    assert demand.tokens_per_s(200.0) == pytest.approx(batch / iteration_s, rel=1e-6)


@given(st.floats(0.1, 5.0), st.floats(0.0, 500.0))
def test_demand_of_a_ramp_counts_what_the_batch_owes(joined_per_iteration, owed_tokens):
    iteration_s = 0.02
    demand = TokenDemand(1e9)
    batches = [round(10 + joined_per_iteration * step) for step in range(400)]
    for step, batch in enumerate(batches):
        demand.note(batch, step * iteration_s)
    produced = np.mean(batches[:-1]) / iteration_s
    owed = owed_tokens * joined_per_iteration / iteration_s
    assert demand.tokens_per_s(owed_tokens) == pytest.approx(produced + owed, rel=0.05)


def test_nothing_is_demanded_before_the_second_note():
    demand = TokenDemand(10.0)
    assert demand.tokens_per_s(200.0) == 0.0
    demand.note(5, 1.0)
    assert demand.tokens_per_s(200.0) == 0.0


@given(st.lists(st.integers(0, 5000), max_size=300), st.floats(1.0, 1000.0))
def test_the_mean_is_the_first_guess_or_within_two_errors_of_what_was_seen(produced, first):
    owed = OwedTokens(first)
    for tokens in produced:
        owed.produced(tokens)
        owed.ended()
    assert 1.0 <= owed.mean < math.inf
    if produced:
        assert owed.mean <= max(first, *produced)
    else:
        assert owed.mean == first


def alike(tokens, *, per_iteration, iterations):
    """What is learned, iteration by iteration, of answers of one length that come evenly."""
    owed, ages, means = OwedTokens(OWED_TOKENS), [], []
    for step in range(iterations):
        ages += [0] * (int((step + 1) * per_iteration) - int(step * per_iteration))
        owed.produced(len(ages))
        ages = [age + 1 for age in ages]
        for _ in range(ages.count(tokens)):
            owed.ended()
        ages = [age for age in ages if age < tokens]
        means.append(owed.mean)
    return means


@given(st.integers(300, 2500), st.floats(0.1, 2.0))
def test_answers_that_are_all_alike_are_known_once_they_end_and_never_taken_for_much_more(
    tokens, per_iteration
):
    means = alike(tokens, per_iteration=per_iteration, iterations=3 * tokens)
    assert max(means) <= 2.2 * tokens
    passed = per_iteration * 2 * tokens
    assert means[-1] == pytest.approx(tokens, rel=0.1 + 2.0 / math.sqrt(passed))


@given(st.integers(600, 2500), st.floats(0.5, 2.0))
def test_what_runs_tells_of_long_answers_before_any_has_ended(tokens, per_iteration):
    """The oldest has produced as much as that, and answers go on."""
    means = alike(tokens, per_iteration=per_iteration, iterations=tokens - 1)
    assert 0.75 * tokens <= means[-1] <= 1.01 * tokens


@given(st.integers(20, 2500), st.floats(0.1, 2.0))
def test_nothing_is_learned_where_requests_leave_and_none_tells(tokens, per_iteration):
    owed = OwedTokens(OWED_TOKENS)
    owed.produced(5)
    owed.produced(4)
    for _ in range(tokens):
        owed.produced(4)
    assert owed.mean == OWED_TOKENS


def full_beside(running, sent):
    """What is intended for a roomy instance beside a full one, which that many were sent to."""
    router = ViableBatch(MarginalEnergy())
    roomy = [replace(asked(name, 40, 1500.0), kv_capacity_tokens=1e6) for name in ("a", "b")]
    assert router.intended(roomy)["b"].pool_per_s == 3000.0
    state = replace(roomy[0].state, running_requests=running, kv_tokens=300 * running)
    full = replace(roomy[0], kv_capacity_tokens=0.8 * 300 * 40, state=state, in_flight=sent)
    after = router.intended([full, roomy[1]])
    return (after["b"].pool_per_s - 3000.0) * CLEARED_S / GROWTH_TOKENS


def test_what_waits_for_room_is_intended_for_all_that_are_awake():
    assert full_beside(40, 45) == 5.0


def test_nothing_waits_for_an_instance_whose_cache_is_full_of_what_runs_while_another_has_room():
    assert full_beside(40, 40) == 0.0


def test_of_a_line_before_prefill_only_those_wait_whose_places_may_not_be_free_by_then():
    """While a hundred are prefilled a hundred end, by chance 20 fewer; and the next one waits."""
    router = ViableBatch(MarginalEnergy())
    pool = [replace(asked(name, 40, 1500.0), max_running_requests=40.0) for name in ("a", "b")]
    lines = [replace(one, in_flight=40 + sent) for one, sent in zip(pool, (100, 0), strict=True)]
    pools_s = [router.intended(some)["b"].pool_per_s - 3000.0 for some in (pool, lines)]
    assert [per_s * CLEARED_S / GROWTH_TOKENS for per_s in pools_s] == [2.0, 22.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hardware", "model", "rate_rps"),
    [("h100-sxm", "llama-3.1-8b", 23.47), ("h100-sxm", "llama-3.1-8b", 20.0)],
)
def test_long_prompts_and_answers_fill_no_memory_that_a_faster_clock_keeps_free(
    hardware, model, rate_rps
):
    """A third of the first tokens were late where demand was taken for half of what it was."""
    given_as = {
        "policies": ["static-max", "voltana"],
        "seed": 1,
        "cluster": {"hardware": hardware, "model": model},
        "workload": {"name": "sharegpt-8k", "rate_rps": rate_rps, "duration_s": 60.0},
    }
    fastest, ours = (run.result for run in compare(load_scenario(None, given_as)).runs)
    assert ours.ttft_attainment > fastest.ttft_attainment - 0.01
    assert ours.energy_saved_vs_static_max > 0.1


@given(
    st.integers(1, 2000), st.floats(1.0, 60.0), st.lists(st.floats(0.005, 1e5), min_size=1),
)  # fmt: skip
def test_no_gap_outweighs_what_the_average_remembers(batch, fading_s, gaps_s):
    """An engine that hung for an hour had the demand taken for nothing for minutes after."""
    demand, now_s = TokenDemand(fading_s), 0.0
    demand.note(batch, now_s)
    for gap_s in gaps_s:
        now_s += gap_s
        demand.note(batch, now_s)
    assert demand.seconds <= fading_s * (1.0 + 1e-9)
    for _ in range(round(3.0 * fading_s / 0.05)):
        now_s += 0.05
        demand.note(batch, now_s)
    assert demand.tokens_per_s(200.0) > 0.9 * batch / 0.05


def test_a_time_that_is_no_number_or_endless_spoils_no_demand():
    demand = TokenDemand(15.0)
    for step in range(1000):
        demand.note(50, {300: math.nan, 500: math.inf, 600: -math.inf}.get(step, 0.05 * step))
    assert demand.tokens_per_s(200.0) == pytest.approx(1000.0, rel=0.02)
