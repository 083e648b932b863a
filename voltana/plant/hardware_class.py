"""What all boards with chips of one generation have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Architecture = Literal["ampere", "ada", "hopper", "blackwell"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareClass:
    """A generation of chips.

    Attributes:
        settle_s: Time after the driver's call until a clock is in force, typical.
        settle_range_s: What is published of that time.
        idle_follows_lock: Whether an idle board under a locked clock keeps that clock, and so its
            higher idle power; else it falls to the power of the lowest clock.
        source: Where that comes from.
    """

    settle_s: float
    settle_range_s: tuple[float, float]
    idle_follows_lock: bool
    source: str


_MILLISECONDS = HardwareClass(
    settle_s=0.03,
    settle_range_s=(0.01, 0.1),
    idle_follows_lock=True,
    source="published: 10-100 ms; idle power at locked clocks measured on A100 and H100",
)

CLASSES: dict[str, HardwareClass] = {
    "ampere": _MILLISECONDS,
    "ada": replace(
        _MILLISECONDS,
        source="not measured: taken as on A100 and Hopper (10-100 ms), idle power as well",
    ),
    "hopper": _MILLISECONDS,
    "blackwell": HardwareClass(
        settle_s=3e-5,
        settle_range_s=(1e-5, 1e-4),
        idle_follows_lock=False,
        source="published: 10-100 us; idle power at locked clocks not measured: taken to fall to "
        "that of the lowest clock when nothing runs, for clocks follow within microseconds",
    ),
}
