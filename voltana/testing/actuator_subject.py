"""What the checks of an actuator share: the subject, and how to wait for a command's effect."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.testing.report import expect
from voltana.values import ActuatorStatus, Command, Domain

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.ports import Actuator

POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ActuatorSubject:
    """What `check_actuator` was given."""

    make: Callable[[], Actuator]
    settle: Callable[[Actuator], None] | None
    domain: Domain
    default_mhz: float
    tolerance_mhz: float
    apply_limit_s: float
    timeout_s: float

    def command(self, clock_mhz: float, sequence: int) -> Command:
        """A command for the subject's domain that outlasts the check."""
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


def when_applied(
    subject: ActuatorSubject, actuator: Actuator, clock_mhz: float, sequence: int
) -> ActuatorStatus:
    """Status once a command has taken effect, or the last one when the timeout ends."""

    def reached(status: ActuatorStatus) -> bool:
        off_mhz = abs(status.clock_mhz - clock_mhz)
        there = math.isnan(off_mhz) or off_mhz <= subject.tolerance_mhz
        return status.sequence == sequence and there

    return subject.settled(actuator, reached)


def expect_applied(status: ActuatorStatus, clock_mhz: float, sequence: int) -> None:
    """Raise a violation unless a command is the last that was applied."""
    seen = (
        f"target {status.target_mhz:g} MHz, sequence {status.sequence} "
        f"where {clock_mhz:g} MHz, sequence {sequence} should hold"
    )
    holds = status.target_mhz == clock_mhz and status.sequence == sequence
    expect(holds, seen, "Keep the highest sequence number and its clock; report both.")
