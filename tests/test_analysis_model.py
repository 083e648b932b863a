"""The linear model of a decode instance, against exact sums and the event simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis_steps import MORE_STEPS, QUICK_STEP, Case, StepCase
from voltana.analysis.actuation import Actuation
from voltana.analysis.decode_model import (
    BATCH,
    CLOCK,
    KV_TOKENS,
    LATENCY,
    linearise,
    linearise_settled,
)
from voltana.analysis.excitation import excited
from voltana.analysis.identification import fit_latency
from voltana.analysis.operating_point import equilibrium
from voltana.analysis.policy_analysis import step_response
from voltana.analysis.recording import record_run
from voltana.analysis.request_mix import RequestMix
from voltana.errors import ConfigError, StabilityError
from voltana.evaluation.scenario import load_scenario
from voltana.policies.named import get_policy
from voltana.values import Role

lengths = st.lists(
    st.tuples(st.integers(1, 4000), st.integers(0, 600)), min_size=1, max_size=40
).filter(lambda rows: any(stay > 0 for _, stay in rows))


def mix_of(rows) -> RequestMix:
    prompts, stays = np.array(rows).T
    return RequestMix(prompt_tokens=prompts, iterations=stays)


@pytest.fixture(scope="module")
def scenario():
    return load_scenario(None, {"policies": ["static-max"], "workload": {"duration_s": 120.0}})


@given(lengths)
def test_the_ages_hold_what_the_requests_do(rows) -> None:
    mix = mix_of(rows)
    ages = mix.ages()
    held = ages.width * ages.survival
    assert held.sum() == pytest.approx(mix.stay)
    assert np.dot(held, ages.context_tokens) == pytest.approx(mix.token_iterations)
    assert np.all(ages.width >= 1)
    assert np.abs(np.linalg.eigvals(ages.transition)).max() < 1


@given(lengths)
def test_a_step_of_the_arrivals_fills_the_ages_as_it_fills_the_batch(rows) -> None:
    mix = mix_of(rows)
    ages, survival = mix.ages(), mix.survival()
    state, filled = np.zeros(len(ages.width)), []
    for _ in range(len(survival)):
        filled.append(state.sum())
        state = ages.transition @ state
        state[0] += ages.survival[0]
    exact = np.concatenate(([0.0], np.cumsum(survival)[:-1]))
    assert np.abs(np.array(filled) - exact).max() <= max(0.1 * mix.stay, 1.0)


def test_a_mix_without_decoding_is_refused() -> None:
    with pytest.raises(ConfigError, match="output_tokens = 1 for all"):
        RequestMix(prompt_tokens=np.array([5]), iterations=np.array([0]))


def test_the_system_has_named_signals_and_its_own_time(scenario) -> None:
    mix = RequestMix.of(scenario.trace)
    model = linearise_settled(
        scenario.cluster, scenario.plant, mix, clock_mhz=1200.0, rate_rps=15.0
    )
    system = model.system
    assert system.input_labels == [CLOCK]
    assert system.output_labels == [LATENCY, BATCH, KV_TOKENS]
    assert system.dt == model.point.latency_s
    assert np.abs(system.poles()).max() < 1
    assert 0 < model.batch_feedback < 1


@pytest.mark.parametrize(
    ("hardware", "model", "rate", "clock_share"),
    [
        ("a100-sxm4-80gb", "llama-3.1-8b", 40.0, 0.9),
        pytest.param("h100-sxm", "qwen3-32b", 20.0, 0.75, marks=pytest.mark.slow),
    ],
)
def test_the_equilibrium_is_where_the_simulation_settles(hardware, model, rate, clock_share):
    case = Case(hardware, model, rate, clock_share)
    runs = [
        run.between(50.0, 120.0)
        for seed in (3, 4)
        for run in case.run_at_rest(seed=seed, duration_s=120.0)
    ]
    point = case.point
    assert np.mean([r.latency_s.mean() for r in runs]) == pytest.approx(point.latency_s, rel=0.04)
    assert np.mean([r.batch.mean() for r in runs]) == pytest.approx(point.batch, rel=0.08)
    assert np.mean([r.kv_tokens.mean() for r in runs]) == pytest.approx(point.kv_tokens, rel=0.1)


def test_an_instance_that_does_not_keep_up_has_no_equilibrium(scenario) -> None:
    mix = RequestMix.of(scenario.trace)
    with pytest.raises(StabilityError, match=r"rate_rps = 40 .* 600 MHz has no equilibrium.*lower"):
        equilibrium(scenario.cluster, scenario.plant, mix, clock_mhz=600.0, rate_rps=40.0)
    with pytest.raises(ConfigError, match="clock_mhz = 0"):
        equilibrium(scenario.cluster, scenario.plant, mix, clock_mhz=0.0, rate_rps=40.0)


@given(
    delay=st.floats(0.0, 5.0), lag=st.one_of(st.just(0.0), st.floats(0.05, 5.0)),
    dt=st.floats(0.01, 1.0),
)  # fmt: skip
def test_the_actuator_is_the_mean_clock_of_each_iteration(delay, lag, dt) -> None:
    delay *= dt
    lag *= dt
    system = Actuation(delay_s=delay, lag_s=lag).system(dt, CLOCK)
    assert (system.input_labels, system.output_labels) == (["clock_command"], [CLOCK])
    answer = step_response(system, CLOCK, 12)
    parts = 4000
    times = (np.arange(12 * parts) + 0.5) * dt / parts - delay
    clock = np.where(times > 0, 1.0 if lag == 0 else -np.expm1(-np.maximum(times, 0) / lag), 0.0)
    exact = clock.reshape(12, parts).mean(axis=1)
    assert np.abs(answer - exact).max() < 2 / parts + 1e-6


def test_impossible_actuators_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"delay_s = -1.* 0 s or more"):
        Actuation(delay_s=-1.0)


def test_a_step_of_the_clock_does_what_the_linear_model_says() -> None:
    _assert_within_ten_per_cent(QUICK_STEP)


@pytest.mark.slow
@pytest.mark.parametrize("step", MORE_STEPS, ids=str)
def test_so_it_does_at_other_points(step) -> None:
    _assert_within_ten_per_cent(step)


def _assert_within_ten_per_cent(step: StepCase) -> None:
    errors = step.errors()
    assert errors["latency"] < 0.1
    assert errors["batch"] < 0.1


# At 0.9 the batch swings about 160, the largest captured graph, where latency has a stair.
@pytest.mark.parametrize("clock_share", [0.8, 0.95])
def test_identification_finds_the_slopes_of_the_linearisation(scenario, clock_share) -> None:
    cluster, plant, trace = scenario.cluster, scenario.plant, scenario.trace
    middle = clock_share * 1410
    low, high = (round(share * middle / 15) * 15.0 for share in (0.96, 1.04))
    run = record_run(cluster, plant, excited(low, high), trace, role=Role.DECODE)[0].recording
    settled = run.between(60.0, 120.0)
    found = fit_latency(settled)
    slopes = linearise(
        plant, RequestMix.of(trace), settled.operating_point(RequestMix.of(trace))
    ).slopes
    context = settled.kv_tokens.mean() / settled.batch.mean()
    assert found.slopes.s_per_mhz == pytest.approx(slopes.s_per_mhz, rel=0.2)
    # Batch and KV tokens grow together: what can be told apart is their sum.
    assert found.slopes.s_per_request + context * found.slopes.s_per_token == pytest.approx(
        slopes.s_per_request + context * slopes.s_per_token, rel=0.3
    )
    assert found.relative_error < 0.06


def test_a_clock_that_never_moved_cannot_be_identified(scenario) -> None:
    run = record_run(
        scenario.cluster, scenario.plant, get_policy("static-max"), scenario.trace,
        role=Role.DECODE, until_s=20.0,
    )[0].recording  # fmt: skip
    with pytest.raises(ConfigError, match="clock_mhz = 1410 throughout is not allowed"):
        fit_latency(run)


def test_recording_leaves_the_run_as_it_is(scenario) -> None:
    from voltana.plant.simulation import Simulation

    policy = get_policy("pid")
    plain = Simulation(scenario.cluster, policy, scenario.trace, plant=scenario.plant)
    plain.run(until_s=10.0)
    recorded = record_run(
        scenario.cluster, scenario.plant, policy, scenario.trace, role=Role.DECODE, until_s=10.0
    )
    counts = {i.instance: i.iterations for i in plain.record().instances}
    for instance in recorded:
        assert abs(counts[instance.name] - len(instance.recording.start_s)) <= 1


def test_a_run_too_short_to_say_anything_is_refused(scenario) -> None:
    with pytest.raises(ConfigError, match=r"recorded iterations = .* at least 50"):
        record_run(
            scenario.cluster, scenario.plant, get_policy("pid"), scenario.trace,
            role=Role.DECODE, until_s=0.5,
        )  # fmt: skip
