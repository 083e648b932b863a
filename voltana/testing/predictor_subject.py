"""What the checks of a predictor share: the subject, and how it is taught."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.testing import samples
from voltana.testing.report import expect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voltana.ports import Forecasts, Predictor
    from voltana.values import Outcome

TRAINING_LABELS = 200
"""Labels that a predictor learns before the checks that want a trained one."""


@dataclass(frozen=True, slots=True)
class PredictorSubject:
    """What `check_predictor` was given."""

    make: Callable[[], Predictor]
    time_limit_s: float


def issued_with(predictor: Predictor, outcome: Outcome) -> Outcome:
    """`outcome` with the forecast that `predictor` issues for it."""
    forecast = predictor.forecast(outcome.load, samples.clocks(28))
    return dataclasses.replace(outcome, decision=samples.issued(forecast))


def taught(predictor: Predictor, outcomes: Iterable[Outcome], *, issue: bool = True) -> Predictor:
    """`predictor`, after it has learned `outcomes`, each with its forecast if `issue`."""
    for outcome in outcomes:
        predictor.learn(issued_with(predictor, outcome) if issue else outcome)
    return predictor


def trained(subject: PredictorSubject) -> Predictor:
    """A fresh predictor that has learned a few hundred labels."""
    return taught(subject.make(), samples.outcomes(TRAINING_LABELS))


def fresh_and_trained(subject: PredictorSubject) -> tuple[Predictor, Predictor]:
    """One that has learned nothing, and a trained one."""
    return subject.make(), trained(subject)


def expect_same(
    one: Predictor, other: Forecasts, seen: str, remedy: str, tolerance: float = 0.0
) -> None:
    """Raise a violation unless both forecast every sample load alike."""
    for name, load in samples.LOADS.items():
        a = one.forecast(load, samples.clocks(9))
        b = other.forecast(load, samples.clocks(9))
        expect(samples.same_forecast(a, b, tolerance), f"{seen} ({name})", remedy)
