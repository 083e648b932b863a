"""The contract of `voltana.ports.Actuator`, as named checks.

An actuator may be asynchronous: `settle` lets time pass until commands took effect, simulated or
real. The plant's, the recording and the real ones are held to this one suite, so that a fake is
never laxer than the hardware.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from voltana.testing import actuator_checks as checks
from voltana.testing.actuator_subject import ActuatorSubject
from voltana.testing.report import Report, run_checks, title_of
from voltana.values import Domain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from voltana.ports import Actuator


def check_actuator(
    factory: Callable[[], Actuator],
    *,
    settle: Callable[[Actuator], None] | None = None,
    domain: Domain | None = None,
    default_mhz: float = math.nan,
    tolerance_mhz: float = 30.0,
    apply_limit_s: float = 0.05,
    timeout_s: float = 2.0,
    skip: Collection[str] = (),
) -> Report:
    """Hold an actuator to its contract.

    Every actuator that is made is closed again, so that a real device is left as it was found.

    Args:
        factory: Makes a fresh, open actuator for every check.
        settle: Lets enough time pass for commands to take effect, such as by moving simulated
            time; None waits in real time until they do, `timeout_s` at most.
        domain: Domain that commands name; one device by default.
        default_mhz: Clock that the device returns to on close; nan takes that before the first
            command.
        tolerance_mhz: How far the clock that is read back may lie from the target.
        apply_limit_s: Time within which apply() must return.
        timeout_s: How long a command may take to have effect.
        skip: Names of checks to leave out; those of `ACTUATOR_CHECKS`.
    """
    made: list[Actuator] = []

    def make() -> Actuator:
        made.append(factory())
        return made[-1]

    subject = ActuatorSubject(
        make=make,
        settle=settle,
        domain=domain or Domain(name="check"),
        default_mhz=default_mhz,
        tolerance_mhz=tolerance_mhz,
        apply_limit_s=apply_limit_s,
        timeout_s=timeout_s,
    )
    closing = tuple(_closing(check, made) for check in ACTUATOR_CHECKS)
    return run_checks(title_of(factory), subject, closing, skip)


ACTUATOR_CHECKS: tuple[Callable[[ActuatorSubject], None], ...] = (
    checks.has_the_methods_of_the_port,
    checks.table_is_ascending,
    checks.status_is_readable_from_the_start,
    checks.apply_reaches_the_clock,
    checks.apply_does_not_block,
    checks.the_latest_command_wins,
    checks.stale_commands_are_ignored,
    checks.a_repeated_clock_renews,
    checks.refuses_unsupported_clocks,
    checks.close_may_be_called_twice,
    checks.close_restores_the_default,
    checks.apply_after_close_is_refused,
    checks.status_after_close_is_readable,
)
"""The suite that `check_actuator` runs."""


def _closing(
    check: Callable[[ActuatorSubject], None], made: list[Actuator]
) -> Callable[[ActuatorSubject], None]:
    """`check`, followed by the close of every actuator that it made."""

    @functools.wraps(check)
    def closing(subject: ActuatorSubject) -> None:
        try:
            check(subject)
        finally:
            while made:
                getattr(made.pop(), "close", lambda: None)()

    return closing
