"""A batch that fills: what it will ask for and hold once it has settled is known before it has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.filling_batch import exponential, filling
from voltana.controllers.answer_age import AnswerAge
from voltana.controllers.demand_envelope import DemandEnvelope
from voltana.controllers.token_demand import TokenDemand
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario

ITERATION_S = 0.04


@given(
    per_s=st.floats(5.0, 500.0),
    mean_tokens=st.floats(20.0, 2000.0),
    fading_s=st.floats(2.0, 60.0),
    seconds=st.floats(1.0, 90.0),
)
def test_the_demand_is_right_at_any_moment_of_filling(per_s, mean_tokens, fading_s, seconds):
    demand, batch = TokenDemand(fading_s), 0.0
    for step in range(round(seconds / ITERATION_S)):
        demand.note(batch, step * ITERATION_S)  # a fluid: requests end at the rate of their tokens
        batch += per_s * ITERATION_S - batch / mean_tokens
    assert demand.tokens_per_s(mean_tokens) == pytest.approx(per_s * mean_tokens, rel=0.05)


def served(lengths, *, per_s, seconds, tells=True):
    """Age as it was told by each iteration of an instance that starts empty, and as it was."""
    age, told = AnswerAge(), []
    for iteration in filling(
        lengths, per_s=per_s, seconds=seconds, iteration_s=ITERATION_S, seed=3
    ):
        age.produced(len(iteration.produced))
        told.append((age.tokens, np.mean(iteration.produced) if iteration.produced else 0.0))
        for _ in range(iteration.ended if tells else 0):
            age.ended()
    return np.array(told)


def test_the_age_of_answers_that_end_by_chance_is_that_of_the_batch():
    told, true = served(exponential(200.0), per_s=20.0, seconds=60.0).T
    assert told[500:] == pytest.approx(true[500:], rel=0.3)
    assert told[-500:].mean() == pytest.approx(200.0, rel=0.1)
    assert told[50] < 0.3 * told[-1]  # young at first


def test_answers_of_one_length_are_never_told_younger_than_they_are():
    told, true = served(lambda _, count: [150] * count, per_s=20.0, seconds=30.0).T
    assert (told >= true - 1.0).all()
    assert told[100] == pytest.approx(true[100], abs=1.0)  # before any has ended, exactly


def test_where_no_request_tells_of_its_end_a_batch_counts_as_old():
    told, true = served(exponential(200.0), per_s=20.0, seconds=60.0, tells=False).T
    assert told[-1] > 1.1 * true[-1]


def test_an_empty_batch_begins_anew():
    age = AnswerAge()
    for batch in (3, 3, 0, 2):
        age.produced(batch)
    assert age.tokens == 0.0


def test_contexts_grow_until_as_many_requests_end_as_join():
    envelope, to_grow = DemandEnvelope(), []
    for iteration in filling(
        exponential(200.0), per_s=20.0, seconds=80.0, iteration_s=ITERATION_S, seed=4
    ):
        envelope.note(len(iteration.produced), iteration.at_s)
        to_grow.append(envelope.to_grow_tokens)
        for _ in range(iteration.ended):
            envelope.ended()
    assert to_grow[50] > 100.0
    assert max(to_grow[-500:]) < 40.0


@pytest.mark.parametrize("seed", [31, 33])
def test_near_saturation_of_the_memory_no_clock_is_slow_for_what_a_young_batch_holds(seed):
    load = {"rate_rps": 45.12, "duration_s": 30.0}
    policies = ["static-max", "static-max-routed", "voltana"]
    cluster = {"hardware": "l40s"}
    scenario = load_scenario(
        None, {"policies": policies, "seed": seed, "cluster": cluster, "workload": load}
    )
    runs = {run.result.policy: run.result for run in compare(scenario).runs}
    reference = max(runs[name].ttft_attainment for name in policies[:2])
    assert runs["voltana"].ttft_attainment > reference - 0.01
    assert runs["voltana"].energy_saved_vs_static_max > 0.15
