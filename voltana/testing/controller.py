"""The contract of `voltana.ports.Controller`, as named checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.ports import Controller
from voltana.testing import controller_promises as promises
from voltana.testing import controller_survival as survival
from voltana.testing import samples
from voltana.testing.controller_subject import ControllerSubject
from voltana.testing.report import Report, expect, run_checks, title_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


def check_controller(
    factory: Callable[[], Controller],
    *,
    levels_mhz: Sequence[float] = samples.CLOCKS_MHZ,
    time_limit_s: float = 0.005,
    skip: Collection[str] = (),
) -> Report:
    """Hold a controller to its contract.

    It is taught as the loop would teach it: a controller with a ``predictor`` attribute gets every
    outcome through that predictor's learn(). Train the predictor in the factory to check a
    controller whose predictor is not reachable that way.

    Args:
        factory: Makes a fresh controller for every check; two of them must be alike.
        levels_mhz: Levels that the loop would clamp it to, ascending; those of an A100 by default.
        time_limit_s: What one decision may take.
        skip: Names of checks to leave out; those of `CONTROLLER_CHECKS`.
    """
    subject = ControllerSubject(factory, tuple(levels_mhz), time_limit_s)
    return run_checks(title_of(factory), subject, CONTROLLER_CHECKS, skip)


def has_the_method_of_the_port(subject: ControllerSubject) -> None:
    """A controller has decide(observation); it needs no base class."""
    made = subject.make()
    expect(isinstance(made, Controller), f"{type(made).__name__} has no decide()", "Add it.")


CONTROLLER_CHECKS: tuple[Callable[[ControllerSubject], None], ...] = (
    has_the_method_of_the_port,
    survival.decides_on_every_phase,
    survival.decides_when_idle,
    survival.decides_on_a_huge_queue,
    survival.decides_without_sensors,
    survival.decides_when_the_budget_is_spent,
    survival.decides_within_any_bounds,
    survival.decides_twice_at_one_time,
    promises.gives_a_reason,
    promises.reasons_are_a_closed_vocabulary,
    promises.budget_is_a_number,
    promises.certifies_only_what_holds,
    promises.promises_nothing_without_a_forecast,
    promises.saturates_at_the_fastest,
    promises.keeps_the_observation,
    promises.decisions_stay_as_made,
    promises.is_deterministic,
    promises.memory_is_bounded,
    promises.answers_in_time,
)
"""The suite that `check_controller` runs."""
