"""What every fit reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Coefficients of one section of one profile.

    Attributes:
        hardware: Name of the profile.
        section: Name of the section.
        values: Coefficients by name.
        source: Measurement, in words.
        residual: How well they fit, in words.
        valid: Where they hold, in words.
    """

    hardware: str
    section: str
    values: dict[str, float]
    source: str
    residual: str
    valid: str
