"""What a kilowatt-hour costs or emits: one figure, or a series over time."""

from __future__ import annotations

import csv
import datetime as dt
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import ConfigError, invalid

if TYPE_CHECKING:
    from voltana.values import FloatArray


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
    try:
        constant = float(given)
    except ValueError:
        return _read(field, Path(given))
    if not math.isfinite(constant):
        raise invalid(field, given, "finite, per kWh", "Give a number or a CSV file.")
    return Tariff(from_s=np.zeros(1), per_kwh=np.array([constant]), source=given)


def _read(field: str, path: Path) -> Tariff:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.reader(lines) if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{field} = {str(path)!r} is neither a number nor a file that can be read: {reason}. "
            "Give what a kWh costs, or CSV of times and figures."
        ) from None
    if rows and not _number(rows[0][-1]):
        rows = rows[1:]
    times_s, values = [], []
    for place, row in enumerate(rows, start=1):
        at_s = _seconds(row[0]) if len(row) == 2 else None
        if at_s is None or not _number(row[-1]):
            raise ConfigError(
                f"{field}: row {place} of {str(path)!r} is {','.join(row)!r}: must be a time "
                "(seconds or ISO 8601) and a number per kWh. Mend or remove it."
            )
        times_s.append(at_s)
        values.append(float(row[1]))
    if not rows or any(later <= sooner for sooner, later in itertools.pairwise(times_s)):
        raise ConfigError(
            f"{field}: {str(path)!r} must hold at least one row, with ascending times. Sort them."
        )
    start_s = 0.0 if _number(rows[0][0]) else times_s[0]
    return Tariff(from_s=np.array(times_s) - start_s, per_kwh=np.array(values), source=path.name)


def _number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _seconds(text: str) -> float | None:
    if _number(text):
        return float(text)
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return moment.timestamp()
