"""What passes between a control loop and the devices: frozen values with units in their names."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from voltana_actuatord.quick import quickly_made


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """The devices that change clock as one: a tensor-parallel group on one host.

    Attributes:
        name: Of the domain, for texts.
        devices: UUIDs of its GPUs; a simulated cluster names its boards as it likes.
        host: Where they are.
    """

    name: str
    devices: tuple[str, ...] = ()
    host: str = "localhost"


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A clock for a domain; a higher sequence number replaces a lower one that still waits."""

    domain: Domain
    clock_mhz: float
    sequence: int
    lease_s: float = 2.0


class Health(enum.StrEnum):
    """Whether an actuator does what it is told."""

    OK = "ok"
    DEGRADED = "degraded"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActuatorStatus:
    """What an actuator achieved.

    Attributes:
        clock_mhz: Clock read back from the device; nan where it cannot be read.
        target_mhz: Clock of the last command that was applied; nan before the first.
        sequence: Sequence number of that command; -1 before the first.
        health: Whether commands take effect.
        error: What went wrong last, in words; empty if nothing did.
    """

    clock_mhz: float
    target_mhz: float
    sequence: int = -1
    health: Health = Health.OK
    error: str = ""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One reading of an instance's sensors.

    Attributes:
        at_s: When it was taken.
        clock_mhz: Achieved SM clock.
        power_w: Power of all devices of the instance.
        energy_j: Energy counter of all its devices since an arbitrary zero.
    """

    at_s: float
    clock_mhz: float
    power_w: float
    energy_j: float
