"""Series over time that a user keeps as CSV: prices, intensities, power budgets."""

from __future__ import annotations

import csv
import datetime as dt
import io
import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

from voltana.errors import ConfigError
from voltana.users_file import read_number, read_text

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS, _ZONED, _PLAIN = "seconds", "ISO 8601 with a zone", "ISO 8601 without a zone"
"""Kinds of times, of which a series has one."""


class _Time(NamedTuple):
    """A time of a row: seconds of the run or since 1970, and its kind."""

    at_s: float
    kind: str


def read_series(
    field: str, path: Path, *, figure: str, remedy: str
) -> tuple[list[float], list[float]]:
    """When each figure begins to hold, ascending, and the figures.

    Times are seconds of the run, or all ISO 8601, of which the first is the start of the run: all
    with a zone, or all without one, which are taken as UTC. A header is left out.

    Args:
        field: What errors call it, such as ``price``.
        path: CSV of two columns: time and figure.
        figure: What the second column holds, such as "a number per kWh".
        remedy: What to do where the file cannot be read.

    Raises:
        ConfigError: If it cannot be read, is empty, or has a row that is none; rows are counted as
            in the file, its header and empty ones included.
    """
    try:
        lines = csv.reader(io.StringIO(read_text(path), newline=""))
        rows = [(place, row) for place, row in enumerate(lines, 1) if any(map(str.strip, row))]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{field} = {str(path)!r} cannot be read: {reason}. {remedy}") from None
    if rows and _is_header(rows[0][1]):
        rows = rows[1:]
    if not rows:
        raise ConfigError(
            f"{field}: {str(path)!r} must hold at least one row of a time and {figure}. Add it."
        )
    times = [_checked(field, path, place, row, figure) for place, row in rows]
    for (place, row), (before, time) in zip(rows[1:], itertools.pairwise(times), strict=True):
        if time.kind != before.kind:
            raise ConfigError(
                f"{field}: row {place} of {str(path)!r} has the time {row[0]!r} ({time.kind}), and "
                f"the row before it one in {before.kind}: must all be seconds, or all ISO 8601 "
                "with a zone, or all without. Write them alike."
            )
        if time.at_s <= before.at_s:
            raise ConfigError(
                f"{field}: row {place} of {str(path)!r} has the time {row[0]!r}, which is not "
                "after that of the row before it: must have ascending times. Sort or remove it."
            )
    start_s = 0.0 if times[0].kind == _SECONDS else times[0].at_s
    return [time.at_s - start_s for time in times], [float(row[1]) for _, row in rows]


def _is_header(row: list[str]) -> bool:
    """Whether a first row names columns: one that begins with a number is a mistake."""
    first = row[0].strip().lstrip("+-.")
    return not first[:1].isdigit() and _time(row[0]) is None and not _is_number(row[-1])


def _checked(field: str, path: Path, place: int, row: list[str], figure: str) -> _Time:
    time = _time(row[0]) if len(row) == 2 and _is_number(row[1]) else None
    if time is None:
        raise ConfigError(
            f"{field}: row {place} of {str(path)!r} is {','.join(row)!r:.80}: must be a time "
            f"(seconds or ISO 8601) and {figure}, finite, with a comma between. Mend or remove it."
        )
    return time


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(read_number(text))
    except ValueError:
        return False


def _time(text: str) -> _Time | None:
    if _is_number(text):
        return _Time(float(text), _SECONDS)
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        return _Time(moment.replace(tzinfo=dt.UTC).timestamp(), _PLAIN)
    return _Time(moment.timestamp(), _ZONED)
