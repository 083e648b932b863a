"""A board as it may be instead: a profile moved within its own uncertainty.

Each of three quantities is moved both ways, one at a time, by what `Uncertainty` says of it. At the
highest clock, where boards are measured, nothing changes but the times of the host.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.plant.hardware import HardwareProfile

FULL_BELOW = 0.75
"""Share of the highest clock at and below which power is moved in full; above it, in proportion."""

NOMINAL = "as calibrated"


def alternatives(hardware: HardwareProfile) -> dict[str, HardwareProfile]:
    """The profile itself under `NOMINAL`, then what it may be instead, by what was moved."""
    known = hardware.uncertainty
    moved = {NOMINAL: hardware}
    if known.low_clock_power:
        for word, sign in (("more", 1), ("less", -1)):
            name = f"{known.low_clock_power:.0%} {word} power at low clocks"
            moved[name] = with_low_clock_power(hardware, 1 + sign * known.low_clock_power)
    if known.decode_exponent:
        for word, sign in (("more", 1), ("less", -1)):
            name = f"decode {word} sensitive to the clock"
            moved[name] = with_memory_exponent(hardware, sign * known.decode_exponent)
    if known.host_factor > 1:
        for word, sign in (("slower", 1), ("faster", -1)):
            name = f"host {word} by {known.host_factor:g}"
            moved[name] = with_host_factor(hardware, known.host_factor**sign)
    return moved


def with_low_clock_power(hardware: HardwareProfile, factor: float) -> HardwareProfile:
    """Power of work at low clocks times `factor`, by the voltage, which never exceeds the top's."""
    curve, top_mhz = hardware.power.voltage_mv, hardware.max_clock_mhz
    top_mv = curve.at(top_mhz)

    def moved(clock_mhz: float) -> float:
        share = min(1.0, max(0.0, (1 - clock_mhz / top_mhz) / (1 - FULL_BELOW)))
        return min(top_mv, curve.at(clock_mhz) * math.sqrt(1 + share * (factor - 1)))

    knots = sorted({*curve.clocks_mhz, FULL_BELOW * top_mhz})
    values, highest = [], 0.0
    for clock_mhz in knots:
        highest = max(highest, moved(clock_mhz))
        values.append(highest)
    changed = curve.model_copy(update={"clocks_mhz": tuple(knots), "values": tuple(values)})
    power = hardware.power.model_copy(update={"voltage_mv": changed})
    return hardware.model_copy(update={"power": power})


def with_memory_exponent(hardware: HardwareProfile, exponent: float) -> HardwareProfile:
    """Time that memory bounds longer by (highest clock / clock)^exponent than it was."""
    curve, top_mhz = hardware.bandwidth, hardware.max_clock_mhz
    clocks = sorted({*curve.clocks_mhz, *hardware.clocks_mhz[::4], top_mhz})
    shares = tuple(
        hardware.bandwidth_share(clock_mhz) * (clock_mhz / top_mhz) ** exponent
        for clock_mhz in clocks
    )
    changed = curve.model_copy(update={"clocks_mhz": tuple(clocks), "share": shares})
    return hardware.model_copy(update={"bandwidth": changed})


def with_host_factor(hardware: HardwareProfile, factor: float) -> HardwareProfile:
    """All times of the host times `factor`."""
    host, launch = hardware.host, hardware.launch
    times = {name: factor * getattr(host, name) for name in ("request_s", "step_s", "token_s")}
    return hardware.model_copy(
        update={
            "host": host.model_copy(update=times),
            "launch": launch.model_copy(update={"iteration_s": factor * launch.iteration_s}),
        }
    )
