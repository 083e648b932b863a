"""The SLO guarantee of docs/guarantee.md, as named checks of whoever claims to give it."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.ports import Controller, HoldsPredictor
from voltana.testing import guarantee_audit as audits
from voltana.testing import samples
from voltana.testing.guarantee_program import (
    BUDGETS,
    LOADS,
    MODES,
    ORDERS,
    Guaranteed,
    Run,
    Stretch,
    Trace,
)
from voltana.testing.report import NotApplicable, Report, expect, run_checks, title_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from voltana.ports import Predictor

PROGRAMS = 60
"""Random programs that a subject goes through, besides one for each mode."""


@dataclass(frozen=True)
class GuaranteeSubject:
    """What `check_guarantee` was given, and what became of it under every program."""

    make: Callable[[], Predictor | Controller]
    programs: int
    seed: int

    def parts(self) -> tuple[Predictor, Controller | None]:
        """A fresh predictor that issues margins, and the controller that it belongs to."""
        made = self.make()
        controller = made if isinstance(made, Controller) else None
        predictor: object = made
        if controller is not None:
            predictor = made.predictor if isinstance(made, HoldsPredictor) else None
        if not isinstance(predictor, Guaranteed):
            name = type(predictor if predictor is not None else made).__name__
            raise NotApplicable(f"{name} promises nothing: wrap its predictor in Conformal")
        return predictor, controller  # type: ignore[return-value]

    @functools.cached_property
    def traces(self) -> tuple[Trace, ...]:
        """Traces of all programs, each on a fresh subject."""
        rng, made = np.random.default_rng(self.seed), []
        for index in range(len(MODES) + self.programs):
            program = [_stretch(rng, index if index < len(MODES) else None) for _ in range(6)]
            made.append(Run(*self.parts()).play(program))
        return tuple(made)


def _stretch(rng: np.random.Generator, mode: int | None) -> Stretch:
    return Stretch(
        mode=MODES[int(rng.integers(len(MODES))) if mode is None else mode],
        length=int(rng.integers(1, 60)),
        load=int(rng.integers(len(LOADS))),
        budget=BUDGETS[int(rng.integers(len(BUDGETS)))],
        order=ORDERS[int(rng.integers(len(ORDERS)))],
        twice=bool(rng.integers(2)),
    )


def certified_implies_the_gate(subject: GuaranteeSubject) -> None:
    """A certified decision's bound fits its budget, and its margin may certify."""
    for trace in subject.traces:
        audits.certified_implies_the_gate(trace)


def the_margin_stays_in_range(subject: GuaranteeSubject) -> None:
    """A margin is infinite, or between q_lo and q_hi of the statement."""
    for trace in subject.traces:
        audits.the_margin_stays_in_range(trace)


def the_margin_follows_its_rule(subject: GuaranteeSubject) -> None:
    """Margins are those of a replay: every label applied once, to its group, as issued."""
    for trace in subject.traces:
        audits.the_margin_follows_its_rule(trace)


def the_bound_holds(subject: GuaranteeSubject) -> None:
    """Certified misses weigh at most alpha of what was scored, plus C, in every window."""
    for trace in subject.traces:
        audits.the_bound_holds(trace)


def decisions_carry_their_margin(subject: GuaranteeSubject) -> None:
    """What is decided for work carries the forecast with its margin, so that it can be scored."""
    predictor, controller = subject.parts()
    if controller is None:
        expect(_margin(predictor) is not None, "a forecast without a margin", "Issue one.")
        return
    decision = controller.decide(samples.observation(LOADS[0]))
    holds = decision.forecast is None or decision.forecast.margin is not None
    seen = "a decision whose forecast has lost its margin"
    expect(holds, seen, "Hand on the forecast as the predictor made it.")


def forecast_changes_no_margin(subject: GuaranteeSubject) -> None:
    """forecast() leaves every margin as it is."""
    predictor, _ = subject.parts()
    before = copy.deepcopy(_margin(predictor))
    for _ in range(20):
        for load in LOADS:
            predictor.forecast(load, samples.clocks(9))
    expect(_margin(predictor) == before, "another margin after forecasts alone", "Only learn().")


def _margin(predictor: Predictor) -> object:
    return predictor.forecast(LOADS[0], samples.clocks(9)).margin


GUARANTEE_CHECKS: tuple[Callable[[GuaranteeSubject], None], ...] = (
    decisions_carry_their_margin,
    forecast_changes_no_margin,
    certified_implies_the_gate,
    the_margin_stays_in_range,
    the_margin_follows_its_rule,
    the_bound_holds,
)
"""The suite that `check_guarantee` runs."""


def check_guarantee(
    factory: Callable[[], Predictor | Controller],
    *,
    programs: int = PROGRAMS,
    seed: int = 0,
    skip: Collection[str] = (),
) -> Report:
    """Hold a predictor, or a controller with a ``predictor``, to the guarantee that it states.

    It is run under programs that know the bound that was issued and attack it. A subject without a
    ``statement`` promises nothing, and nothing is checked.

    Args:
        factory: Makes a fresh subject for every program.
        programs: Random programs, besides one for each mode of attack.
        seed: Of the random programs.
        skip: Names of checks to leave out; those of `GUARANTEE_CHECKS`.
    """
    subject = GuaranteeSubject(factory, programs, seed)
    return run_checks(title_of(factory), subject, GUARANTEE_CHECKS, skip)
