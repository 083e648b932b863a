"""The contract of `voltana.ports.Actuator`, as named checks.

An actuator may be asynchronous: `settle` lets time pass until commands took effect, simulated or
real. The plant's, the recording and the real ones are held to this one suite, so that a fake is
never laxer than the hardware.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.errors import ActuatorError, ConfigError
from voltana.ports import Actuator
from voltana.testing.report import NotApplicable, Report, expect, run_checks, title_of
from voltana.testing.timing import fastest_s
from voltana.values import ActuatorStatus, Command, Domain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    make: Callable[[], Actuator]
    settle: Callable[[Actuator], None] | None
    domain: Domain
    default_mhz: float
    tolerance_mhz: float
    apply_limit_s: float
    timeout_s: float

    def command(self, clock_mhz: float, sequence: int) -> Command:
        return Command(
            domain=self.domain, clock_mhz=clock_mhz, sequence=sequence, lease_s=10 * self.timeout_s
        )

    def settled(
        self, actuator: Actuator, holds: Callable[[ActuatorStatus], bool]
    ) -> ActuatorStatus:
        """Status once `holds` is true of it, or the last one when the timeout ends."""
        if self.settle is not None:
            self.settle(actuator)
            return actuator.status()
        ends_s = time.monotonic() + self.timeout_s
        while not holds(status := actuator.status()) and time.monotonic() < ends_s:
            time.sleep(POLL_S)
        return status


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

    subject = _Subject(
        make=make,
        settle=settle,
        domain=domain or Domain(name="check"),
        default_mhz=default_mhz,
        tolerance_mhz=tolerance_mhz,
        apply_limit_s=apply_limit_s,
        timeout_s=timeout_s,
    )
    checks = tuple(_closing(check, made) for check in ACTUATOR_CHECKS)
    return run_checks(title_of(factory), subject, checks, skip)


def has_the_methods_of_the_port(subject: _Subject) -> None:
    """An actuator has table(), apply(), status() and close(); it needs no base class."""
    made = subject.make()
    expect(
        isinstance(made, Actuator),
        f"{type(made).__name__} lacks one of table, apply, status, close",
        "Add the method; voltana.ports.Actuator has the signatures.",
    )


def table_is_ascending(subject: _Subject) -> None:
    """table() is a tuple of one clock or more in MHz, finite, positive and strictly ascending."""
    actuator = subject.make()
    table = actuator.table()
    holds = (
        isinstance(table, tuple)
        and len(table) > 0
        and all(0 < mhz < math.inf for mhz in table)
        and all(a < b for a, b in itertools.pairwise(table))
    )
    expect(holds, f"table() = {str(table)[:80]}", "Sort it, drop repetitions, convert to MHz.")
    expect(actuator.table() == table, "table() differs from call to call", "Read it once.")


def status_is_readable_from_the_start(subject: _Subject) -> None:
    """Before the first command the target is nan and the sequence -1."""
    status = subject.make().status()
    remedy = "Return voltana.values.ActuatorStatus with nan and -1."
    expect(isinstance(status, ActuatorStatus), f"a {type(status).__name__}", remedy)
    seen = f"target {status.target_mhz!r}, sequence {status.sequence}"
    expect(math.isnan(status.target_mhz) and status.sequence == -1, seen, remedy)


def apply_reaches_the_clock(subject: _Subject) -> None:
    """After apply() the status shows its sequence and target, and the clock is read back there."""
    actuator = subject.make()
    table = actuator.table()
    for sequence, clock_mhz in enumerate((table[0], table[-1], table[len(table) // 2])):
        actuator.apply(subject.command(clock_mhz, sequence))
        status = _when_applied(subject, actuator, clock_mhz, sequence)
        _expect_applied(status, clock_mhz, sequence)
        off_mhz = abs(status.clock_mhz - clock_mhz)
        seen = f"clock {status.clock_mhz:g} MHz where {clock_mhz:g} MHz was asked for"
        remedy = "Read the clock back from the device; report nan where it cannot be read."
        expect(math.isnan(off_mhz) or off_mhz <= subject.tolerance_mhz, seen, remedy)


def apply_does_not_block(subject: _Subject) -> None:
    """apply() returns within its limit, however long the device takes."""
    actuator = subject.make()
    table, sequence = actuator.table(), iter(range(1_000))

    def apply() -> None:
        number = next(sequence)
        actuator.apply(subject.command(table[-(number % 2)], number))

    took_s = fastest_s(apply, repeats=4)
    seen = f"{1e3 * took_s:.1f} ms at best, limit {1e3 * subject.apply_limit_s:g} ms"
    expect(took_s <= subject.apply_limit_s, seen, "Hand the command to a worker and return.")


def the_latest_command_wins(subject: _Subject) -> None:
    """Of a burst of commands the last is in force once it has settled."""
    actuator = subject.make()
    table = actuator.table()
    for sequence in range(20):
        actuator.apply(subject.command(table[sequence % len(table)], sequence))
    last_mhz = table[19 % len(table)]
    _expect_applied(_when_applied(subject, actuator, last_mhz, 19), last_mhz, 19)


def stale_commands_are_ignored(subject: _Subject) -> None:
    """A command with a lower sequence number than one before it changes nothing."""
    actuator = subject.make()
    table = actuator.table()
    actuator.apply(subject.command(table[-1], 5))
    _when_applied(subject, actuator, table[-1], 5)
    actuator.apply(subject.command(table[0], 3))
    status = subject.settled(actuator, lambda _: False) if len(table) > 1 else actuator.status()
    _expect_applied(status, table[-1], 5)


def a_repeated_clock_renews(subject: _Subject) -> None:
    """A command for the clock in force counts: its sequence number shows, its lease begins."""
    actuator = subject.make()
    top_mhz = actuator.table()[-1]
    for sequence in range(2):
        actuator.apply(subject.command(top_mhz, sequence))
        _expect_applied(_when_applied(subject, actuator, top_mhz, sequence), top_mhz, sequence)


def refuses_unsupported_clocks(subject: _Subject) -> None:
    """A clock outside table() raises ConfigError or ActuatorError and changes nothing."""
    actuator = subject.make()
    table = actuator.table()
    actuator.apply(subject.command(table[-1], 0))
    _when_applied(subject, actuator, table[-1], 0)
    for wrong_mhz in (table[-1] + 1e4, table[0] / 2, table[-1] + 0.123, math.nan, math.inf, -1.0):
        try:
            actuator.apply(subject.command(wrong_mhz, 1))
        except (ConfigError, ActuatorError):
            continue
        remedy = "Raise with voltana.errors.invalid; the loop sends clocks of the table alone."
        expect(holds=False, seen=f"{wrong_mhz:g} MHz was accepted", remedy=remedy)
    _expect_applied(actuator.status(), table[-1], 0)


def close_may_be_called_twice(subject: _Subject) -> None:
    """close() works before any command, after one, and again."""
    for commands in (0, 1):
        actuator = subject.make()
        for sequence in range(commands):
            actuator.apply(subject.command(actuator.table()[0], sequence))
        actuator.close()
        actuator.close()


def close_restores_the_default(subject: _Subject) -> None:
    """After close() the device runs at the clock that it had before the first command."""
    actuator = subject.make()
    default_mhz = subject.default_mhz
    if math.isnan(default_mhz):
        default_mhz = actuator.status().clock_mhz
    if math.isnan(default_mhz):
        raise NotApplicable("the clock cannot be read, and default_mhz was not given")
    table = actuator.table()
    other_mhz = max(table[0], table[-1], key=lambda mhz: abs(mhz - default_mhz))
    actuator.apply(subject.command(other_mhz, 0))
    _when_applied(subject, actuator, other_mhz, 0)
    actuator.close()

    def back(status: ActuatorStatus) -> bool:
        off_mhz = abs(status.clock_mhz - default_mhz)
        return math.isnan(off_mhz) or off_mhz <= subject.tolerance_mhz

    status = subject.settled(actuator, back)
    seen = f"{status.clock_mhz:g} MHz after close(), {default_mhz:g} MHz before the first command"
    expect(back(status), seen, "Reset the clocks in close().")


def apply_after_close_is_refused(subject: _Subject) -> None:
    """apply() after close() raises ActuatorError."""
    actuator = subject.make()
    actuator.close()
    try:
        actuator.apply(subject.command(actuator.table()[-1], 0))
    except ActuatorError:
        return
    remedy = "Raise ActuatorError: a closed actuator has given its clocks back."
    expect(holds=False, seen="it was accepted", remedy=remedy)


def status_after_close_is_readable(subject: _Subject) -> None:
    """status() answers after close(), for whoever reports what happened last."""
    actuator = subject.make()
    actuator.close()
    status = actuator.status()
    seen = f"a {type(status).__name__}"
    expect(isinstance(status, ActuatorStatus), seen, "Keep the last status; read no handle.")


ACTUATOR_CHECKS: tuple[Callable[[_Subject], None], ...] = (
    has_the_methods_of_the_port,
    table_is_ascending,
    status_is_readable_from_the_start,
    apply_reaches_the_clock,
    apply_does_not_block,
    the_latest_command_wins,
    stale_commands_are_ignored,
    a_repeated_clock_renews,
    refuses_unsupported_clocks,
    close_may_be_called_twice,
    close_restores_the_default,
    apply_after_close_is_refused,
    status_after_close_is_readable,
)
"""The suite that `check_actuator` runs."""


def _closing(check: Callable[[_Subject], None], made: list[Actuator]) -> Callable[[_Subject], None]:
    """`check`, followed by the close of every actuator that it made."""

    @functools.wraps(check)
    def closing(subject: _Subject) -> None:
        try:
            check(subject)
        finally:
            while made:
                getattr(made.pop(), "close", lambda: None)()

    return closing


def _when_applied(
    subject: _Subject, actuator: Actuator, clock_mhz: float, sequence: int
) -> ActuatorStatus:
    def reached(status: ActuatorStatus) -> bool:
        off_mhz = abs(status.clock_mhz - clock_mhz)
        there = math.isnan(off_mhz) or off_mhz <= subject.tolerance_mhz
        return status.sequence == sequence and there

    return subject.settled(actuator, reached)


def _expect_applied(status: ActuatorStatus, clock_mhz: float, sequence: int) -> None:
    seen = (
        f"target {status.target_mhz:g} MHz, sequence {status.sequence} "
        f"where {clock_mhz:g} MHz, sequence {sequence} should hold"
    )
    holds = status.target_mhz == clock_mhz and status.sequence == sequence
    expect(holds, seen, "Keep the highest sequence number and its clock; report both.")
