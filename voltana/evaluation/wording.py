"""How figures are written in tables, plots and captions."""

from __future__ import annotations

import math

UNKNOWN = "-"
"""What stands where there is no figure."""


def significant(value: float, digits: int = 4) -> str:
    """A measured figure to so many digits, the zeros at its end among them.

    What has more digits before the point is written out to a whole number.
    """
    if not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    text = f"{value:#.{digits}g}"
    if abs(float(text)) >= 10**digits:
        return f"{value:,.0f}"
    return text.removesuffix(".")


def kilojoules(energy_j: float) -> str:
    """Energy in kJ, to three digits or to 0.1 kJ."""
    return f"{energy_j / 1e3:.1f}" if energy_j >= 1e4 else significant(energy_j / 1e3, 3)


def percent(share: float, digits: int = 1) -> str:
    """A share in per cent."""
    return f"{share:.{digits}%}" if math.isfinite(share) else UNKNOWN


def watts(power_w: float) -> str:
    """Power, to a watt."""
    return f"{power_w:.0f} W" if math.isfinite(power_w) else UNKNOWN


def ms(seconds: float, digits: int = 0) -> str:
    """Milliseconds without their unit; infinite ones are "never"."""
    if math.isnan(seconds):
        return UNKNOWN
    return f"{seconds * 1e3:.{digits}f}" if math.isfinite(seconds) else "never"
