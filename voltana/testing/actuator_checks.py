"""Checks of an actuator's table, commands and close."""

from __future__ import annotations

import itertools
import math
import time

from voltana.errors import ActuatorError, ConfigError
from voltana.ports import Actuator
from voltana.testing.actuator_subject import ActuatorSubject, expect_applied, when_applied
from voltana.testing.report import NotApplicable, expect
from voltana.testing.timing import fastest_s
from voltana.values import ActuatorStatus

BURST = 1000
"""Commands of a burst; a queue of so many takes seconds at a driver's milliseconds a call."""


def has_the_methods_of_the_port(subject: ActuatorSubject) -> None:
    """An actuator has table(), apply(), status() and close(); it needs no base class."""
    made = subject.make()
    expect(
        isinstance(made, Actuator),
        f"{type(made).__name__} lacks one of table, apply, status, close",
        "Add the method; voltana.ports.Actuator has the signatures.",
    )


def table_is_ascending(subject: ActuatorSubject) -> None:
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


def status_is_readable_from_the_start(subject: ActuatorSubject) -> None:
    """Before the first command the target is nan and the sequence -1."""
    status = subject.make().status()
    remedy = "Return voltana.values.ActuatorStatus with nan and -1."
    expect(isinstance(status, ActuatorStatus), f"a {type(status).__name__}", remedy)
    seen = f"target {status.target_mhz!r}, sequence {status.sequence}"
    expect(math.isnan(status.target_mhz) and status.sequence == -1, seen, remedy)


def apply_reaches_the_clock(subject: ActuatorSubject) -> None:
    """After apply() the status shows its sequence and target, and the clock is read back there."""
    actuator = subject.make()
    table = actuator.table()
    for sequence, clock_mhz in enumerate((table[0], table[-1], table[len(table) // 2])):
        actuator.apply(subject.command(clock_mhz, sequence))
        status = when_applied(subject, actuator, clock_mhz, sequence)
        expect_applied(status, clock_mhz, sequence)
        off_mhz = abs(status.clock_mhz - clock_mhz)
        seen = f"clock {status.clock_mhz:g} MHz where {clock_mhz:g} MHz was asked for"
        remedy = "Read the clock back from the device; report nan where it cannot be read."
        expect(math.isnan(off_mhz) or off_mhz <= subject.tolerance_mhz, seen, remedy)


def apply_does_not_block(subject: ActuatorSubject) -> None:
    """apply() returns within its limit, however long the device takes."""
    actuator = subject.make()
    table, sequence = actuator.table(), iter(range(1_000))

    def apply() -> None:
        number = next(sequence)
        actuator.apply(subject.command(table[-(number % 2)], number))

    took_s = fastest_s(apply, repeats=4)
    seen = f"{1e3 * took_s:.1f} ms at best, limit {1e3 * subject.apply_limit_s:g} ms"
    expect(took_s <= subject.apply_limit_s, seen, "Hand the command to a worker and return.")


def the_latest_command_wins(subject: ActuatorSubject) -> None:
    """Of a burst of commands the last is in force as soon as a single one would be: no queue."""
    actuator = subject.make()
    table = actuator.table()
    started_s, sequence = time.monotonic(), 0
    for sequence in range(BURST):
        actuator.apply(subject.command(table[sequence % len(table)], sequence))
        if time.monotonic() - started_s > subject.timeout_s:
            break  # it blocks, which is another check's finding
    last_mhz = table[sequence % len(table)]
    status = when_applied(subject, actuator, last_mhz, sequence)
    expect_applied(status, last_mhz, sequence)


def stale_commands_are_ignored(subject: ActuatorSubject) -> None:
    """A command with a lower sequence number than one before it changes nothing."""
    actuator = subject.make()
    table = actuator.table()
    actuator.apply(subject.command(table[-1], 5))
    when_applied(subject, actuator, table[-1], 5)
    actuator.apply(subject.command(table[0], 3))
    status = subject.settled(actuator, lambda _: False) if len(table) > 1 else actuator.status()
    expect_applied(status, table[-1], 5)


def a_repeated_clock_renews(subject: ActuatorSubject) -> None:
    """A command for the clock in force counts: its sequence number shows, its lease begins."""
    actuator = subject.make()
    top_mhz = actuator.table()[-1]
    for sequence in range(2):
        actuator.apply(subject.command(top_mhz, sequence))
        expect_applied(when_applied(subject, actuator, top_mhz, sequence), top_mhz, sequence)


def refuses_unsupported_clocks(subject: ActuatorSubject) -> None:
    """A clock outside table() raises ConfigError or ActuatorError and changes nothing."""
    actuator = subject.make()
    table = actuator.table()
    actuator.apply(subject.command(table[-1], 0))
    when_applied(subject, actuator, table[-1], 0)
    for wrong_mhz in (table[-1] + 1e4, table[0] / 2, table[-1] + 0.123, math.nan, math.inf, -1.0):
        try:
            actuator.apply(subject.command(wrong_mhz, 1))
        except (ConfigError, ActuatorError):
            continue
        remedy = "Raise with voltana.errors.invalid; the loop sends clocks of the table alone."
        expect(holds=False, seen=f"{wrong_mhz:g} MHz was accepted", remedy=remedy)
    expect_applied(actuator.status(), table[-1], 0)


def close_may_be_called_twice(subject: ActuatorSubject) -> None:
    """close() works before any command, after one, and again."""
    for commands in (0, 1):
        actuator = subject.make()
        for sequence in range(commands):
            actuator.apply(subject.command(actuator.table()[0], sequence))
        actuator.close()
        actuator.close()


def close_restores_the_default(subject: ActuatorSubject) -> None:
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
    when_applied(subject, actuator, other_mhz, 0)
    actuator.close()

    def back(status: ActuatorStatus) -> bool:
        off_mhz = abs(status.clock_mhz - default_mhz)
        return math.isnan(off_mhz) or off_mhz <= subject.tolerance_mhz

    status = subject.settled(actuator, back)
    seen = f"{status.clock_mhz:g} MHz after close(), {default_mhz:g} MHz before the first command"
    expect(back(status), seen, "Reset the clocks in close().")


def apply_after_close_is_refused(subject: ActuatorSubject) -> None:
    """apply() after close() raises ActuatorError."""
    actuator = subject.make()
    actuator.close()
    try:
        actuator.apply(subject.command(actuator.table()[-1], 0))
    except ActuatorError:
        return
    remedy = "Raise ActuatorError: a closed actuator has given its clocks back."
    expect(holds=False, seen="it was accepted", remedy=remedy)


def status_after_close_is_readable(subject: ActuatorSubject) -> None:
    """status() answers after close(), for whoever reports what happened last."""
    actuator = subject.make()
    actuator.close()
    status = actuator.status()
    seen = f"a {type(status).__name__}"
    expect(isinstance(status, ActuatorStatus), seen, "Keep the last status; read no handle.")
