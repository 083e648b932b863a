"""The suites that users run, on what promises and what does not; and what a margin costs a step."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from tests.mutants import MUTANTS, QUICK, bound
from voltana.controllers.ecofreq import EcoFreq
from voltana.levels import A100_CLOCKS_MHZ
from voltana.planning import lowest_safe_decision, settle
from voltana.predictors.conformal import Conformal
from voltana.predictors.drift import DriftAware
from voltana.predictors.ecopred import EcoPred
from voltana.slo import Slo
from voltana.testing import check_controller, check_guarantee, check_predictor, samples
from voltana.testing.guarantee_program import LEVELS_MHZ
from voltana.values import Load, Outcome


def warm():
    return Conformal(EcoPred(max_clock_mhz=1410.0), QUICK, first=0.15)


def ecofreq():
    return EcoFreq(bound(), LEVELS_MHZ, Slo(ttft_s=0.6, itl_s=0.05))


@pytest.mark.parametrize(
    "factory", [warm, lambda: Conformal(EcoPred()), lambda: DriftAware(warm())]
)
def test_the_wrapper_keeps_the_contract_of_a_predictor(factory):
    check_predictor(factory).raise_if_failed()


def test_a_controller_over_it_keeps_both_contracts():
    check_controller(
        lambda: EcoFreq(warm(), A100_CLOCKS_MHZ, Slo(ttft_s=0.6, itl_s=0.05))
    ).raise_if_failed()
    check_guarantee(ecofreq, programs=10).raise_if_failed()


def test_the_suite_for_users_passes_what_is_sound_and_names_what_is_not():
    check_guarantee(bound, programs=20).raise_if_failed()
    report = check_guarantee(lambda: bound(MUTANTS["sign flip"]), programs=5)
    assert {r.name for r in report.failures} >= {"the_margin_follows_its_rule", "the_bound_holds"}
    nothing = check_guarantee(EcoPred)
    assert nothing.passed
    assert all("promises nothing" in result.detail for result in nothing.results)


def test_the_suite_catches_a_controller_that_drops_the_margin():
    class Dropping(EcoFreq):
        def decide(self, observation):
            made = super().decide(observation)
            if made.forecast is None:
                return made
            bare = dataclasses.replace(made.forecast, margin=None)
            return dataclasses.replace(made, forecast=bare)

    slo = Slo(ttft_s=0.6, itl_s=0.05)
    report = check_guarantee(lambda: Dropping(bound(), LEVELS_MHZ, slo), programs=2)
    assert "decisions_carry_their_margin" in {result.name for result in report.failures}


@pytest.mark.slow
def test_a_control_step_stays_fast():
    from voltana.testing.timing import fastest_s

    bare, wrapped = EcoPred(), Conformal(EcoPred(), first=0.15)
    clocks, load = samples.clocks(28), Load.decode(64, 40_000)
    for outcome in samples.outcomes(200):
        bare.learn(outcome)
        wrapped.learn(outcome)
    sequence = itertools.count()

    def step(predictor):
        decision = settle(
            lowest_safe_decision(predictor.forecast(load, clocks), 0.03),
            clock_mhz=1410.0,
            achieved_mhz=1410.0,
            fastest_mhz=1410.0,
            issuer="timed",
            sequence=next(sequence),
        )
        predictor.learn(
            Outcome(
                load=load, clock_mhz=1410.0, latency_s=0.0201, ended_at_s=1.0, decision=decision
            )
        )

    # As a ratio, in alternating rounds: what the machine is at takes part in both alike.
    rounds = [
        (fastest_s(lambda: step(wrapped), 600), fastest_s(lambda: step(bare), 600))
        for _ in range(5)
    ]
    with_margin_s, without_s = map(min, zip(*rounds, strict=True))
    assert with_margin_s / without_s < 2.0, (with_margin_s, without_s)
