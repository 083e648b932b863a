"""Series over time that a user keeps as CSV: prices, intensities, power budgets."""

from __future__ import annotations

import csv
import datetime as dt
import io
import itertools
import math
from typing import TYPE_CHECKING

from voltana.errors import ConfigError
from voltana.users_file import read_text

if TYPE_CHECKING:
    from pathlib import Path


def read_series(field: str, path: Path, *, figure: str) -> tuple[list[float], list[float]]:
    """When each figure begins to hold, ascending, and the figures.

    Times are seconds of the run, or all ISO 8601, of which the first is the start of the run. A
    header is left out.

    Args:
        field: What errors call it, such as ``price``.
        path: CSV of two columns: time and figure.
        figure: What the second column holds, such as "a number per kWh".

    Raises:
        ConfigError: If it cannot be read, is empty, or has a row that is none.
    """
    try:
        lines = io.StringIO(read_text(path), newline="")
        rows = [row for row in csv.reader(lines) if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{field} = {str(path)!r} is neither a number nor a file that can be read: {reason}. "
            f"Give {figure}, or CSV of times and figures."
        ) from None
    if rows and _seconds(rows[0][0]) is None and not _number(rows[0][-1]):
        rows = rows[1:]  # a header; a row that has a time and no figure is a mistake
    times_s, values = [], []
    for place, row in enumerate(rows, start=1):
        at_s = _seconds(row[0]) if len(row) == 2 else None
        if at_s is None or not _number(row[-1]):
            raise ConfigError(
                f"{field}: row {place} of {str(path)!r} is {','.join(row)!r:.80}: must be a time "
                f"(seconds or ISO 8601) and {figure}, finite. Mend or remove it."
            )
        if _number(row[0]) != _number(rows[0][0]):
            raise ConfigError(
                f"{field}: row {place} of {str(path)!r} has the time {row[0]!r} and the first row "
                f"{rows[0][0]!r}: must all be seconds, or all ISO 8601. Write them alike."
            )
        times_s.append(at_s)
        values.append(float(row[1]))
    if not rows or any(later <= sooner for sooner, later in itertools.pairwise(times_s)):
        raise ConfigError(
            f"{field}: {str(path)!r} must hold at least one row, with ascending times. Sort them."
        )
    start_s = 0.0 if _number(rows[0][0]) else times_s[0]
    return [at_s - start_s for at_s in times_s], values


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
