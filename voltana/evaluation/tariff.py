"""What a kilowatt-hour costs or emits: one figure, or a series over time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import ConfigError, invalid
from voltana.evaluation.time_series import read_series
from voltana.users_file import read_number

if TYPE_CHECKING:
    from voltana.values import FloatArray


MOST_PER_KWH = 1e9
"""In any currency; more is a slip of the pen, and sums of more may be no numbers."""

CARBON = "carbon"
"""The field of intensities, of which none is below 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tariff:
    """A price or an intensity, per kWh, that holds until the next.

    Attributes:
        from_s: When each begins, ascending from 0, in seconds of the run; shape (n,).
        per_kwh: What holds from then on, shape (n,).
        source: What the user gave.
    """

    from_s: FloatArray
    per_kwh: FloatArray
    source: str

    def at(self, times_s: FloatArray) -> FloatArray:
        """What holds at each time; before the first and after the last row, that row's."""
        places = np.searchsorted(self.from_s, times_s, side="right") - 1
        values: FloatArray = self.per_kwh[np.clip(places, 0, len(self.per_kwh) - 1)]
        return values

    def check_begins(self, last_s: float) -> None:
        """Refuse a series of which no row has begun when the last request arrives.

        Its times are of something else, such as seconds since 1970.

        Args:
            last_s: When that is, in seconds of the run.

        Raises:
            ConfigError: If it is so.
        """
        if self.from_s[0] > max(last_s, 0.0):
            raise ConfigError(
                f"{self.source!r} begins at {self.from_s[0]:.10g} s, and the last request arrives "
                f"at {last_s:.6g} s: must have a row that holds in the run. Give times in seconds "
                "of the run, or as ISO 8601, of which the first is the start of the run."
            )

    def ends_before(self, end_s: float) -> bool:
        """Whether a run goes on for longer after the last row than any row lasts before it."""
        if len(self.from_s) == 1:
            return False
        return bool(end_s - self.from_s[-1] > np.diff(self.from_s).max())


def read_tariff(field: str, given: str) -> Tariff:
    """A tariff from a number, or from CSV of two columns: time, and figure per kWh.

    Times are seconds of the run, or ISO 8601, of which the first is the start of the run. A header
    is left out. Prices may be negative, as they are on some days; intensities may not.

    Args:
        field: What errors call it, such as ``price``.
        given: What the user wrote.

    Raises:
        ConfigError: If it is neither.
    """
    tariff = _read(field, given)
    least = 0.0 if field == CARBON else -MOST_PER_KWH
    wrong = (tariff.per_kwh < least) | (tariff.per_kwh > MOST_PER_KWH)
    if wrong.any():
        first = int(wrong.argmax())
        where = f" (from {tariff.from_s[first]:g} s on)" if len(wrong) > 1 else ""
        raise invalid(
            field,
            float(tariff.per_kwh[first]),
            f"{least:g} to {MOST_PER_KWH:g} per kWh{where}",
            "Check its unit.",
        )
    return tariff


def _read(field: str, given: str) -> Tariff:
    if not given.strip():
        raise invalid(field, given, "a number per kWh, or a file", "Leave the flag out for none.")
    try:
        constant = read_number(given)
    except ValueError:
        from_s, per_kwh = read_series(
            field, Path(given), figure="a number per kWh",
            remedy="Give a number per kWh, or CSV of times and numbers.",
        )  # fmt: skip
        return Tariff(from_s=np.array(from_s), per_kwh=np.array(per_kwh), source=Path(given).name)
    if not math.isfinite(constant):
        raise invalid(field, given, "finite, per kWh", "Give a number or a CSV file.")
    return Tariff(from_s=np.zeros(1), per_kwh=np.array([constant]), source=given)
