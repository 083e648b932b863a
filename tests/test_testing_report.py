"""The report: every check runs, failures say contract, finding and remedy, nothing is swallowed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.honest import HonestRouter
from voltana.errors import ConfigError, ContractError, UnknownNameError, VoltanaError
from voltana.testing import check_power_predictor, check_router
from voltana.testing.report import NotApplicable, expect, run_checks


def is_small(subject):
    """A subject is small,
    as subjects go.

    This paragraph is for readers of the code.
    """
    expect(subject < 3, f"{subject}", "Take a smaller one.")


def is_even(subject):
    """A subject is even."""
    if subject < 0:
        raise NotApplicable("it is negative")
    expect(subject % 2 == 0, f"{subject} is odd", "Add one.")


def is_invertible(subject):
    """A subject has an inverse."""
    expect(1 / subject > 0, "a negative inverse", "Take the absolute value.")


CHECKS = (is_small, is_even, is_invertible)


def test_a_subject_that_keeps_every_contract_passes():
    report = run_checks("two", 2, CHECKS)
    assert report.passed
    assert report.failures == ()
    report.raise_if_failed()
    assert str(report).splitlines() == [
        "two:",
        "ok   is_small",
        "ok   is_even",
        "ok   is_invertible",
    ]


def test_every_check_runs_and_failures_are_told_in_full():
    report = run_checks("five", 5, CHECKS)
    assert [result.passed for result in report.results] == [False, False, True]
    with pytest.raises(ContractError) as caught:
        report.raise_if_failed()
    assert str(caught.value).splitlines() == [
        "five: 2 of 3 checks failed",
        "FAIL is_small",
        "     contract: A subject is small, as subjects go.",
        "     seen:     5",
        "     remedy:   Take a smaller one.",
        "FAIL is_even",
        "     contract: A subject is even.",
        "     seen:     5 is odd",
        "     remedy:   Add one.",
    ]
    assert isinstance(caught.value, (VoltanaError, AssertionError))


def test_an_exception_is_a_finding_with_its_place():
    report = run_checks("zero", 0, CHECKS)
    (failure,) = report.failures
    assert failure.name == "is_invertible"
    assert "ZeroDivisionError: division by zero" in failure.detail
    assert "in is_invertible" in failure.detail
    assert "test_testing_report.py" in failure.detail


def test_what_is_not_applicable_passes_and_says_why():
    report = run_checks("minus two", -2, CHECKS[:2])
    assert report.passed
    assert "ok   is_even (not applicable: it is negative)" in str(report)


def test_checks_are_skipped_by_name():
    report = run_checks("five", 5, CHECKS, skip=["is_small", "is_even"])
    assert [result.name for result in report.results] == ["is_invertible"]


def test_a_check_that_does_not_exist_cannot_be_skipped():
    with pytest.raises(UnknownNameError, match=r"unknown check 'is_smal'.*'is_small'"):
        run_checks("five", 5, CHECKS, skip=["is_smal"])


def test_a_suite_is_named_after_its_factory():
    assert check_router(HonestRouter).subject == "HonestRouter"
    assert "lambda" in check_router(lambda: HonestRouter()).subject  # noqa: PLW0108


def test_a_component_is_no_factory():
    with pytest.raises(ConfigError, match=r"factory = .*HonestRouter.*not an instance of it"):
        check_router(HonestRouter())


def test_a_factory_that_fails_fails_every_check():
    def broken():
        raise OSError("no device")

    report = check_router(broken)
    assert len(report.failures) == len(report.results) > 10
    assert all("OSError: no device" in result.detail for result in report.failures)


class NanWatts:
    def forecast_w(self, load, clocks_mhz):
        return np.full(len(clocks_mhz), np.nan)

    def learn_window(self, energy_j, exposures):
        pass


class ScalarWatts(NanWatts):
    def forecast_w(self, load, clocks_mhz):
        return 100.0


@pytest.mark.parametrize(
    ("broken", "fails"),
    [
        (NanWatts, {"forecasts_sane_watts", "learn_survives_broken_windows"}),
        (ScalarWatts, {"forecasts_every_clock_asked_for"}),
    ],
)
def test_a_fault_of_a_power_predictor_is_not_taken_for_another(broken, fails):
    report = check_power_predictor(broken)
    assert {result.name for result in report.results if not result.passed} == fails
