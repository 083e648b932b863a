"""Controllers as linear systems, margins, designs and refusals."""

from __future__ import annotations

import dataclasses
import math

import control
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from voltana.analysis.actuation import Actuation
from voltana.analysis.controller_model import (
    Channel,
    ControllerModel,
    closed_loop,
    open_loop,
    pid_model,
)
from voltana.analysis.controller_response import identify_controller
from voltana.analysis.controller_twin import Probe
from voltana.analysis.decode_model import BATCH, LATENCY, linearise_settled
from voltana.analysis.design import check_pid, design_pi
from voltana.analysis.identification import fit_arx
from voltana.analysis.margins import Requirement, margins_of, require
from voltana.analysis.policy_analysis import impulse_response
from voltana.analysis.recording import RecordedInstance, Recording
from voltana.analysis.request_mix import RequestMix
from voltana.controllers.fixed import FixedClock
from voltana.controllers.pid import Pid, PidGains
from voltana.errors import ConfigError, StabilityError
from voltana.evaluation.scenario import load_scenario
from voltana.policy import InstanceContext, InstancePolicy
from voltana.slo import Slo
from voltana.values import Decision, Load, Observation, Role

FEW = settings(max_examples=6)
TABLE = tuple(np.arange(600.0, 1980.1, 15.0))


@pytest.fixture(scope="module")
def scenario():
    return load_scenario(None, {"policies": ["static-max"], "workload": {"duration_s": 60.0}})


@pytest.fixture(scope="module")
def model(scenario):
    mix = RequestMix.of(scenario.trace)
    return linearise_settled(scenario.cluster, scenario.plant, mix, clock_mhz=1200.0, rate_rps=25.0)


@pytest.fixture(scope="module")
def actuation(scenario):
    return Actuation.of(scenario.cluster)


def loop_of(model, actuation, gains):
    dt = target_s = model.point.latency_s
    return open_loop(model.system, actuation, pid_model(gains, target_s=target_s, dt=dt))


def decays(model, actuation, gains, samples=6000) -> bool:
    """Whether the closed loop, simulated, forgets a pulse: the end against what came before."""
    dt = model.point.latency_s
    controller = pid_model(gains, target_s=dt, dt=dt)
    system = closed_loop(model.system, actuation, controller)
    row = system.C[system.output_labels.index(LATENCY)]
    # Fifty samples at a time: what the latency is during them, and the state after them.
    seen, block = [row], 50
    for _ in range(block):
        seen.append(seen[-1] @ system.A)
    rows, ahead = np.stack(seen[:block]), np.linalg.matrix_power(system.A, block)
    state, sizes = system.B[:, 0], np.empty((samples // block, block))
    for index in range(len(sizes)):
        sizes[index] = np.abs(rows @ state)
        if sizes[index].max() > 1e3:  # seconds: grown by a factor of a million
            return False
        state = ahead @ state
    early, _, late = np.array_split(sizes.ravel(), 3)
    return float(late.max()) < 0.5 * float(early.max())


# --- Margins ---------------------------------------------------------------------------------


@FEW
@given(
    proportional=st.floats(20.0, 900.0), integral=st.floats(10.0, 8000.0),
    delay=st.floats(0.0, 0.15),
)  # fmt: skip
def test_margins_are_those_that_a_simulation_needs(model, proportional, integral, delay):
    actuation = Actuation(delay_s=delay)
    gains = PidGains(proportional_mhz=proportional, integral_mhz_per_s=integral)
    loop = loop_of(model, actuation, gains)
    margins = margins_of(loop)
    assume(margins.stable and margins.modulus_margin > 0.1)
    assert 1.0 / margins.modulus_margin == pytest.approx(margins.sensitivity_peak)
    assert decays(model, actuation, gains)
    growth = margins.gain_margin
    if growth < 50:
        below, above = (
            dataclasses.replace(
                gains,
                proportional_mhz=proportional * growth * share,
                integral_mhz_per_s=integral * growth * share,
            )
            for share in (0.97, 1.03)
        )
        assert margins_of(loop_of(model, actuation, below)).stable
        assert not margins_of(loop_of(model, actuation, above)).stable


@FEW
@given(integral=st.floats(3000.0, 15000.0), proportional=st.floats(0.0, 200.0))
def test_the_delay_margin_is_the_delay_that_a_simulation_takes(model, integral, proportional):
    # Slow enough that an interpolated delay is one at the crossover.
    actuation = Actuation(delay_s=0.035)
    gains = PidGains(proportional_mhz=proportional, integral_mhz_per_s=integral)
    margins = margins_of(loop_of(model, actuation, gains))
    assume(margins.stable and margins.crossover_rad_s * model.point.latency_s < 0.4)
    assume(margins.delay_margin_s < 60 * model.point.latency_s)
    for share, stable in ((0.9, True), (1.1, False)):
        later = Actuation(delay_s=actuation.delay_s + share * margins.delay_margin_s)
        assert margins_of(loop_of(model, later, gains)).stable is stable
        assert decays(model, later, gains, samples=15000) is stable


def test_margins_of_a_loop_that_is_known() -> None:
    # L = k / (z - 1): stable for k below 2; at k = 1/2 its Nyquist curve ends at -1/4.
    loop = control.tf([0.5], [1, -1], dt=0.1)
    margins = margins_of(loop)
    assert margins.gain_margin == pytest.approx(4.0)
    assert margins.modulus_margin == pytest.approx(0.75, abs=1e-3)
    crossover = 2 * math.asin(0.25) / 0.1
    assert margins.crossover_rad_s == pytest.approx(crossover, rel=1e-3)
    phase = math.pi / 2 - math.asin(0.25)
    assert margins.phase_margin_deg == pytest.approx(math.degrees(phase), rel=1e-3)
    assert margins.delay_margin_s == pytest.approx(phase / crossover, rel=1e-3)
    assert margins.pole_radius == pytest.approx(0.5)


def test_an_unstable_or_marginal_loop_is_refused_with_the_reason() -> None:
    unstable = margins_of(control.tf([2.5], [1, -1], dt=0.1))
    with pytest.raises(StabilityError, match=r"X is unstable: its largest pole has modulus 1\.5"):
        require(unstable, Requirement(), "X")
    marginal = margins_of(control.tf([1.2], [1, -1], dt=0.1))
    with pytest.raises(StabilityError, match=r"modulus_margin = 0\.4 is not allowed: .* 0\.5"):
        require(marginal, Requirement(), "X")
    with pytest.raises(ConfigError, match=r"modulus_margin = 1\.5 .* 0 to 1"):
        Requirement(modulus_margin=1.5)


# --- Designs ---------------------------------------------------------------------------------


@FEW
@given(
    modulus=st.floats(0.3, 0.85), phase=st.floats(20.0, 80.0), gain=st.floats(1.5, 6.0),
    delay_margin=st.one_of(st.just(0.0), st.floats(0.05, 3.0)), delay=st.floats(0.0, 0.3),
)  # fmt: skip
def test_a_design_has_the_margins_that_were_asked_for(  # noqa: PLR0917
    model, modulus, phase, gain, delay_margin, delay
):
    wanted = Requirement(
        modulus_margin=modulus, phase_margin_deg=phase, gain_margin=gain,
        delay_margin_s=delay_margin,
    )  # fmt: skip
    actuation = Actuation(delay_s=delay)
    target_s = model.point.latency_s
    design = design_pi(model.system, actuation, target_s=target_s, requirement=wanted)
    assert design.gains.integral_mhz_per_s > 0
    again = margins_of(loop_of(model, actuation, design.gains))
    assert again == design.margins
    assert again.stable
    assert wanted.shortfall(again) == ""
    assert decays(model, actuation, design.gains)


@FEW
@given(proportional=st.floats(0.0, 4000.0), integral=st.floats(0.0, 80000.0))
def test_gains_are_refused_exactly_when_they_are_unstable_or_marginal(
    model, actuation, proportional, integral
):
    gains = PidGains(proportional_mhz=proportional, integral_mhz_per_s=integral)
    target_s = model.point.latency_s
    margins = margins_of(loop_of(model, actuation, gains))
    assume(abs(margins.pole_radius - 1) > 2e-4)  # nearer, a simulation would take for ever
    assert decays(model, actuation, gains, samples=15000) is margins.stable
    if margins.stable and not Requirement().shortfall(margins):
        assert check_pid(gains, model.system, actuation, target_s=target_s) == margins
        return
    reason = "is marginal: " if margins.stable else "is unstable: its largest pole"
    with pytest.raises(StabilityError, match=reason):
        check_pid(gains, model.system, actuation, target_s=target_s)


def test_a_clock_without_effect_cannot_be_designed_for(model, actuation) -> None:
    dead = dataclasses.replace(model, slopes=dataclasses.replace(model.slopes, s_per_mhz=0.0))
    with pytest.raises(StabilityError, match=r"gain over the clock = .* below 0.*power limit"):
        design_pi(dead.system, actuation, target_s=0.05)


def test_a_plant_that_is_unstable_by_itself_is_refused(model, actuation) -> None:
    steep = dataclasses.replace(model.slopes, s_per_request=4 * model.slopes.s_per_request,
                                s_per_token=4 * model.slopes.s_per_token)  # fmt: skip
    runaway = dataclasses.replace(model, slopes=steep)
    assert runaway.batch_feedback > 1
    with pytest.raises(StabilityError, match=r"unstable by itself: .* modulus 1\.0"):
        design_pi(runaway.system, actuation, target_s=0.05)


# --- Controllers -----------------------------------------------------------------------------


class Proportional:
    """A static law: the clock of the batch, without levels."""

    def __init__(self, mhz_per_request: float) -> None:
        self.mhz_per_request = mhz_per_request

    def decide(self, observation) -> Decision:
        batch = observation.load.decode_requests
        return Decision(clock_mhz=1200 + self.mhz_per_request * (batch - 100), reason="batch")


class Lagging:
    """Follows the latency with a lag."""

    def __init__(self, mhz_per_s: float, kept: float) -> None:
        self.mhz_per_s, self.kept, self.level = mhz_per_s, kept, 0.02

    def decide(self, observation) -> Decision:
        self.level += (1 - self.kept) * (observation.last_latency_s - self.level)
        return Decision(clock_mhz=1200 + self.mhz_per_s * (self.level - 0.02), reason="lag")


def recorded(controller, levels=TABLE, *, clock_mhz=1200.0, now_s=10.0) -> RecordedInstance:
    slo = Slo(ttft_s=1.0, itl_s=0.05)
    return RecordedInstance(
        name="decode-0",
        context=InstanceContext(
            instance="decode-0", role=Role.DECODE, table_mhz=tuple(levels), slo=slo
        ),
        policy=InstancePolicy(controller=controller, levels_mhz=tuple(levels)),
        last=Observation(
            instance="decode-0", sampled_at_s=now_s, now_s=now_s, load=Load.decode(100, 40000),
            clock_mhz=clock_mhz, target_mhz=clock_mhz, last_latency_s=0.02,
        ),
        recording=Recording(**{f.name: np.zeros(0) for f in dataclasses.fields(Recording)}),
    )  # fmt: skip


def respond(scenario, model, controller, levels=TABLE, replicates=16):
    point = dataclasses.replace(
        model.point, clock_mhz=1200.0, batch=100.0, kv_tokens=40000.0, latency_s=0.02
    )
    return identify_controller(
        recorded(controller, levels), scenario.plant, point, Probe(replicates=replicates)
    )


@pytest.mark.parametrize(
    ("proportional", "integral"), [(300.0, 600.0), (0.0, 2000.0), (800.0, 200.0)]
)
def test_a_pid_is_identified_as_what_it_is(scenario, model, proportional, integral) -> None:
    gains = PidGains(proportional_mhz=proportional, integral_mhz_per_s=integral)
    slo = Slo(ttft_s=1.0, itl_s=0.02 / 0.85)  # its set point is the latency that is shown
    pid = Pid(TABLE, slo, gains=gains)
    for sample in range(400):  # a run would leave it near its operating point
        seen = dataclasses.replace(recorded(pid).last, now_s=0.02 * sample, last_latency_s=0.012)
        if pid.decide(seen).clock_mhz <= 1350 + 200 * (proportional > 0):
            break
    found = respond(scenario, model, pid)
    exact = pid_model(gains, target_s=0.02, dt=0.02).channels[LATENCY]
    channel = found.model.channels[LATENCY]
    assert channel.pole == 1.0
    assert channel.drift_mhz == pytest.approx(exact.drift_mhz, rel=0.1)
    assert channel.gain_mhz == pytest.approx(exact.gain_mhz, rel=0.15, abs=1500)
    assert found.model.channels[BATCH].silent
    assert found.fit > 0.85


def test_a_fixed_clock_closes_no_loop(scenario, model, actuation) -> None:
    found = respond(scenario, model, FixedClock(1200.0), (1200.0,))
    assert found.model.silent
    margins = margins_of(open_loop(model.system, actuation, found.model))
    assert (margins.gain_margin, margins.modulus_margin) == (math.inf, 1.0)
    assert margins.stable


@pytest.mark.parametrize("gain", [-2.0, 0.7, 6.0])
def test_a_static_law_has_its_slope_in_spite_of_its_levels(scenario, model, gain) -> None:
    channel = respond(scenario, model, Proportional(gain), replicates=64).model.channels[BATCH]
    assert channel.gain_mhz == pytest.approx(gain, rel=0.15, abs=0.2)
    assert channel.drift_mhz == 0.0


def test_a_lag_is_found(scenario, model) -> None:
    channel = respond(scenario, model, Lagging(50000.0, 0.9)).model.channels[LATENCY]
    assert channel.pole == pytest.approx(0.9, abs=0.06)
    assert channel.step(400)[-1] == pytest.approx(50000.0, rel=0.1)


@given(
    gain=st.integers(-10, 10), drift=st.floats(0.01, 5), pole=st.sampled_from((0.0, 0.9, 1.0)),
    kick=st.integers(0, 3), delay=st.integers(0, 4),
)  # fmt: skip
def test_the_system_of_a_channel_answers_as_the_channel_does(gain, drift, pole, kick, delay):
    channel = Channel(gain_mhz=gain, drift_mhz=drift, pole=pole, kick_mhz=kick, delay=delay)
    system = channel.system(0.1, source="in", target="out")
    answer = np.cumsum(impulse_response(system, "out", 20))
    assert answer == pytest.approx(channel.step(20), abs=1e-5)


def test_gains_of_any_size_have_a_system() -> None:
    channel = Channel(gain_mhz=1e-87, drift_mhz=1e-90, pole=1.0, kick_mhz=1e-88)
    answer = np.cumsum(impulse_response(channel.system(0.1, source="in", target="out"), "out", 5))
    assert answer * 1e87 == pytest.approx(channel.step(5) * 1e87)


def test_the_loop_has_named_signals_and_an_explicit_time(model, actuation) -> None:
    controller = ControllerModel(channels={BATCH: Channel(gain_mhz=1.0)})
    loop = open_loop(model.system, actuation, controller)
    assert (loop.input_labels, loop.output_labels) == (["clock_command"], ["clock_demand"])
    assert loop.dt == model.point.latency_s
    closed = closed_loop(model.system, actuation, controller)
    assert closed.output_labels == ["clock", "latency", "batch", "kv_tokens"]
    # The loop of the parts has the poles of 1 / (1 + L).
    ours, theirs = (np.sort(np.abs(s.poles()))[-3:] for s in (closed, control.feedback(loop, 1)))
    assert ours == pytest.approx(theirs, rel=1e-6)


# --- Identification --------------------------------------------------------------------------


@FEW
@given(pole=st.floats(-0.9, 0.95), gain=st.floats(0.1, 5.0), seed=st.integers(0, 1000))
def test_a_difference_equation_is_found_from_what_it_did(pole, gain, seed) -> None:
    rng = np.random.default_rng(seed)
    source = rng.standard_normal(600)
    target = np.zeros(600)
    for k in range(2, 600):
        target[k] = pole * target[k - 1] + gain * source[k - 2] + 3.0
    found = fit_arx(source, target, dt=0.1, delay=2, names=("clock", "latency"))
    assert found.simulation_fit > 0.99
    assert (found.system.input_labels, found.system.dt) == (["clock"], 0.1)
    answer = impulse_response(found.system, "latency", 6)
    assert answer == pytest.approx([0, 0, *(gain * pole**k for k in range(4))], abs=1e-6)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"samples = .* Record longer"):
        fit_arx(np.zeros(20), np.zeros(20), dt=0.1)
