"""The guarantee of docs/guarantee.md: it holds for what we ship, and every mutant is caught."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.mutants import BOUND_BREAKERS, HONEST, MUTANTS, bound
from voltana.testing import strategies as vst
from voltana.testing.guarantee_audit import AUDITS, audit, the_bound_holds
from voltana.testing.guarantee_program import Run
from voltana.testing.report import Violation

FEW = 25
MANY = 3000
"""Examples for each of the sound settings: 21,000 in all in the slow suite."""
HUNT = settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow, id="many")])
def test_every_audit_holds_for_every_program(name, examples):
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(vst.guarantee_programs())
    def holds(program):
        audit(Run(bound(**HONEST[name])).play(program))

    holds()


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name):
    @HUNT
    @given(vst.guarantee_programs())
    def holds(program):
        audit(Run(bound(MUTANTS[name])).play(program))

    with pytest.raises(Violation):
        holds()


@pytest.mark.parametrize("name", sorted(BOUND_BREAKERS))
def test_some_mutants_break_the_theorem_itself(name):
    @HUNT
    @given(vst.guarantee_programs())
    def holds(program):
        the_bound_holds(Run(bound(MUTANTS[name])).play(program))

    with pytest.raises(Violation):
        holds()


def test_there_is_an_audit_for_each_promise():
    assert len(AUDITS) == 4
