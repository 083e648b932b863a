"""Minimal realisations: the same answer at every frequency, with the states that matter."""

from __future__ import annotations

import warnings

import control
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.analysis.actuation import Actuation
from voltana.analysis.agreement import MarginWarning, warn_of_margin
from voltana.analysis.controller_model import Channel, ControllerModel, open_loop, pid_model
from voltana.analysis.decode_model import LATENCY, linearise_settled
from voltana.analysis.margins import frequencies, margins_of, sampled
from voltana.analysis.minimal import minimal
from voltana.analysis.policy_analysis import analyse_policy
from voltana.analysis.request_mix import RequestMix
from voltana.controllers.pid import PidGains
from voltana.evaluation.scenario import load_scenario


@pytest.fixture(scope="module")
def decode():
    scenario = load_scenario(None, {})
    model = linearise_settled(
        scenario.cluster,
        scenario.plant,
        RequestMix.of(scenario.trace),
        clock_mhz=1200.0,
        rate_rps=25.0,
    )
    return model, Actuation.of(scenario.cluster)


def answer(system, omega):
    return np.squeeze(system(np.exp(1j * omega * system.dt)))


@given(
    poles=st.lists(st.floats(-0.99, 0.999), min_size=1, max_size=6, unique=True),
    gains=st.lists(st.floats(0.1, 10.0), min_size=6, max_size=6),
    integrator=st.booleans(),
    hidden=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_hidden_states_go_and_the_answer_stays(poles, gains, integrator, hidden) -> None:
    all_poles = [*poles, *([1.0] if integrator else [])]
    size = len(all_poles) + hidden
    a = np.diag([*all_poles, *([1.0, 0.5, 0.9][:hidden])])
    b = np.array([1.0] * len(all_poles) + [0.0] * hidden).reshape(-1, 1)
    c = np.array([*gains[: len(poles)], *([0.3] if integrator else []), *[1.0] * hidden])
    mixing = np.linalg.qr(np.random.default_rng(size).normal(size=(size, size)))[0]
    system = control.ss(
        mixing @ a @ mixing.T, mixing @ b, (c @ mixing.T).reshape(1, -1), [[0.5]], 0.02,
        inputs=["u"], outputs=["y"],
    )  # fmt: skip
    small = minimal(system)
    omega = frequencies(0.02)[::50]
    np.testing.assert_allclose(answer(small, omega), answer(system, omega), rtol=1e-5, atol=1e-6)
    assert small.nstates <= len(all_poles)
    assert (small.input_labels, small.output_labels, small.dt) == (["u"], ["y"], 0.02)
    assert np.isclose(np.abs(small.poles()), 1.0).sum() == integrator


def test_a_loop_keeps_its_answer_with_fewer_states(decode) -> None:
    model, actuation = decode
    gains = PidGains(proportional_mhz=300.0, integral_mhz_per_s=600.0)
    pid = pid_model(gains, target_s=model.point.latency_s, dt=model.system.dt)
    loop = open_loop(model.system, actuation, pid)
    assert isinstance(loop, control.StateSpace)
    assert loop.nstates < 25
    margins, theirs = margins_of(loop), control.margin(sampled(loop))
    assert margins.gain_margin == pytest.approx(theirs[0], rel=1e-3)
    assert margins.phase_margin_deg == pytest.approx(theirs[1], rel=1e-3)
    assert margins.crossover_rad_s == pytest.approx(theirs[3], rel=1e-3)


def test_an_integrator_that_moves_nothing_is_no_unstable_loop(decode) -> None:
    model, actuation = decode
    law = ControllerModel(channels={LATENCY: Channel(drift_mhz=1.0, pole=1.0)})
    plant = model.system
    held = control.ss(  # the power limit sets the clock
        plant.A, 0 * plant.B, plant.C, 0 * plant.D, plant.dt,
        inputs=plant.input_labels, outputs=plant.output_labels, name="held",
    )  # fmt: skip
    loop = open_loop(held, actuation, law)
    assert loop.nstates == 0
    assert margins_of(loop).stable


@pytest.mark.parametrize("gains", [(300.0, 600.0), (30.0, 60.0), (300.0, 0.0)])
def test_wrong_margins_of_python_control_are_said_with_the_right_ones(decode, gains) -> None:
    model, actuation = decode
    pid = PidGains(proportional_mhz=gains[0], integral_mhz_per_s=gains[1])
    law = pid_model(pid, target_s=model.point.latency_s, dt=model.system.dt)
    loop = open_loop(model.system, actuation, law)
    margins = margins_of(loop)
    with pytest.warns(MarginWarning, match="wrong by more than 1%") as caught:
        warn_of_margin(loop, margins, stacklevel=1)
    (warning,) = caught
    assert warning.filename == __file__
    assert f"for {margins.phase_margin_deg:.4g} degrees" in str(warning.message)


@pytest.mark.parametrize(("pole", "gain"), [(0.5, -0.9), (0.5, 0.9)])
def test_right_margins_of_python_control_pass_without_a_word(pole, gain) -> None:
    loop = control.ss([[pole]], [[1.0]], [[gain]], [[0.0]], 0.02)
    assert np.isfinite(control.margin(loop)).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_margin(loop, margins_of(loop))


def test_an_analysis_warns_where_its_loop_is_made() -> None:
    scenario = load_scenario(
        None,
        {
            "policies": ["pid"],
            "slo": {"itl_ms": 22.0},
            "cluster": {"decode": 1},
            "workload": {"rate_rps": 20.0, "duration_s": 60.0},
        },
    )
    with pytest.warns(MarginWarning, match="take .margins") as caught:
        analysis = analyse_policy(scenario, "pid")
    assert [w.filename for w in caught if w.category is MarginWarning] == [__file__]
    ours = control.margin(analysis.sampled)
    assert not np.allclose(control.margin(analysis.loop), ours, rtol=0.01, equal_nan=True)
