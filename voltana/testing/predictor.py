"""The contract of `voltana.ports.Predictor`, as named checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.testing import predictor_forecast as forecasting
from voltana.testing import predictor_learning as learning
from voltana.testing.predictor_subject import PredictorSubject
from voltana.testing.report import Report, run_checks, title_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from voltana.ports import Predictor

PREDICTOR_CHECKS: tuple[Callable[[PredictorSubject], None], ...] = (
    forecasting.has_the_methods_of_the_port,
    forecasting.forecasts_every_clock_asked_for,
    forecasting.forecasts_no_nan,
    forecasting.forecasts_no_negative_latency,
    forecasting.upper_covers_the_mean,
    forecasting.work_takes_time,
    forecasting.forecast_keeps_its_inputs,
    forecasting.forecast_changes_nothing,
    forecasting.forecasts_the_same_twice,
    forecasting.issued_forecasts_stay_as_issued,
    forecasting.one_clock_agrees_with_many,
    forecasting.answers_in_time,
    learning.learn_survives_outliers,
    learning.learn_survives_broken_labels,
    learning.learn_accepts_outcomes_without_a_forecast,
    learning.learn_keeps_the_outcome,
    learning.snapshot_agrees_with_its_predictor,
    learning.snapshot_is_frozen,
    learning.snapshot_is_json,
    learning.memory_is_bounded,
    learning.copies_go_on_alike,
    learning.is_deterministic,
)
"""The suite that `check_predictor` runs."""

STRICT_PREDICTOR_CHECKS: tuple[Callable[[PredictorSubject], None], ...] = (
    learning.learns_a_linear_plant,
)
"""What it runs in addition if asked to be strict."""


def check_predictor(
    factory: Callable[[], Predictor],
    *,
    strict: bool = False,
    time_limit_s: float = 0.005,
    skip: Collection[str] = (),
) -> Report:
    """Hold a latency predictor to its contract.

    Args:
        factory: Makes a fresh predictor for every check; two of them must be alike.
        strict: Also require that it learns a simple linear plant. Leave it off for predictors that
            do not learn, or that assume another form of plant.
        time_limit_s: What one forecast over 81 clocks may take.
        skip: Names of checks to leave out; those of `PREDICTOR_CHECKS`.
    """
    checks = PREDICTOR_CHECKS + (STRICT_PREDICTOR_CHECKS if strict else ())
    return run_checks(title_of(factory), PredictorSubject(factory, time_limit_s), checks, skip)
