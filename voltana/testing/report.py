"""Runs named checks and reports what each of them saw.

A check is a function of one subject. Its docstring is the contract that it holds the subject to,
its name the name in the report. It returns if the contract holds, raises `Violation` if not, and
`NotApplicable` if it has nothing to say about this subject.
"""

from __future__ import annotations

import inspect
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from voltana.errors import ContractError, invalid, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

SubjectT = TypeVar("SubjectT")


class Violation(Exception):  # noqa: N818  (a finding of a check, not an error of the library)
    """A contract is broken.

    Args:
        seen: What was observed instead of what the contract says.
        remedy: What to change, as an imperative sentence.
    """

    def __init__(self, seen: str, remedy: str) -> None:
        super().__init__(seen, remedy)
        self.seen = seen
        self.remedy = remedy


class NotApplicable(Exception):  # noqa: N818  (an outcome of a check, not an error)
    """A check has nothing to say about this subject; its text says why."""


def expect(holds: object, seen: str, remedy: str) -> None:
    """Raise `Violation` unless `holds`."""
    if not holds:
        raise Violation(seen, remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What one check found.

    Attributes:
        name: Name of the check.
        passed: Whether its contract holds.
        detail: The contract, what was seen and the remedy if it does not; why there was nothing to
            check if it was not applicable; empty otherwise.
    """

    name: str
    passed: bool
    detail: str = ""

    def __str__(self) -> str:
        """One line if the check passed, a small paragraph otherwise."""
        head = f"{'ok  ' if self.passed else 'FAIL'} {self.name}"
        if not self.detail:
            return head
        return f"{head} ({self.detail})" if self.passed else f"{head}\n{self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a suite found.

    Attributes:
        subject: What was checked.
        results: One per check, in the order in which they ran.
    """

    subject: str
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every contract holds."""
        return not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks whose contract does not hold."""
        return tuple(result for result in self.results if not result.passed)

    def raise_if_failed(self) -> None:
        """Raise `ContractError`, with every failure in its text, if a contract does not hold.

        Raises:
            ContractError: It is an AssertionError too, so that test runners report a failure.
        """
        if self.failures:
            failed, total = len(self.failures), len(self.results)
            paragraphs = "\n".join(str(result) for result in self.failures)
            raise ContractError(f"{self.subject}: {failed} of {total} checks failed\n{paragraphs}")

    def __str__(self) -> str:
        """Every result, one line each for those that passed."""
        return "\n".join([f"{self.subject}:", *(str(result) for result in self.results)])


def run_checks(
    title: str,
    subject: SubjectT,
    checks: Sequence[Callable[[SubjectT], None]],
    skip: Collection[str] = (),
) -> Report:
    """Run every check of a suite, whatever the others find.

    Args:
        title: Name of what is checked, for the report.
        subject: Handed to every check.
        checks: The suite.
        skip: Names of checks to leave out.

    Raises:
        UnknownNameError: If `skip` names a check that the suite does not have.
    """
    names = [check.__name__ for check in checks]
    for name in skip:
        if name not in names:
            raise unknown_name("check", name, names)
    kept = [check for check in checks if check.__name__ not in skip]
    return Report(subject=title, results=tuple(_run(check, subject) for check in kept))


def title_of(factory: object) -> str:
    """A readable name for what a factory makes.

    Raises:
        ConfigError: If it is no factory, such as the component itself.
    """
    if not callable(factory):
        raise invalid(
            "factory",
            factory,
            "a class or a function that makes a fresh component",
            "Pass MyController or lambda: MyController(...), not an instance of it.",
        )
    return getattr(factory, "__name__", None) or repr(factory)


def _run(check: Callable[[SubjectT], None], subject: SubjectT) -> CheckResult:
    name = check.__name__
    try:
        check(subject)
    except Violation as violation:
        return CheckResult(
            name=name, passed=False, detail=_paragraph(check, violation.seen, violation.remedy)
        )
    except NotApplicable as why:
        return CheckResult(name=name, passed=True, detail=f"not applicable: {why}")
    except Exception as error:  # noqa: BLE001  (whatever user code raises is a finding)
        seen = f"{type(error).__name__}: {error} ({_origin(error)})"
        remedy = "Handle this input; the loop has nobody to catch an exception."
        return CheckResult(name=name, passed=False, detail=_paragraph(check, seen, remedy))
    return CheckResult(name=name, passed=True)


def _paragraph(check: Callable[[SubjectT], None], seen: str, remedy: str) -> str:
    contract = " ".join((inspect.getdoc(check) or "").split("\n\n")[0].split())
    return f"     contract: {contract}\n     seen:     {seen}\n     remedy:   {remedy}"


def _origin(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised in {frame.name}, line {frame.lineno} of {frame.filename.rsplit('/', 1)[-1]}"
