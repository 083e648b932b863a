"""Cells of a trace file to numbers, a chunk of rows at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import TraceError
from voltana.plant.workload.lengths.marginal import MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.values import FloatArray

MAX_TIME_S = 1e11
"""About 3000 years since 1970; a larger number is in another unit than its column says."""

FINEST_S = 1e-9
"""The finest unit of recorded times: nanoseconds."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_SHOWN = 40

_NO_VALUE = (ValueError, TypeError, OverflowError, AttributeError)
"""What a conversion says of a cell of another kind, such as a number among dates."""


class ColumnReader:
    """Converts the cells of one column, and names the right line where that fails.

    Args:
        where: The file, for errors.
        column: The column, for errors.
    """

    __slots__ = ("_column", "_dates", "_where")

    def __init__(self, where: str, column: str) -> None:
        self._where = where
        self._column = column
        self._dates: bool | None = None

    @property
    def dates(self) -> bool:
        """Whether the column holds dates, which the first cell decides."""
        return bool(self._dates)

    def times(
        self, cells: Sequence[object], lines: Sequence[int], unit_s: float | None
    ) -> FloatArray:
        """Times as they stand: numbers in some unit, or dates with a time of day in seconds.

        The first cell of the file decides which of the two; dates without a zone are UTC.

        Args:
            cells: As read.
            lines: Where they stand.
            unit_s: Unit of numbers in seconds; None if it is not known yet.

        Raises:
            TraceError: If a cell is not of that kind, or too large.
        """
        if self._dates is None:
            self._dates = isinstance(cells[0], str) and not _is_number(cells[0])
        if self._dates:
            allowed = "a date and time such as 2023-11-16 18:15:46.680, or a number"
            return self._convert(cells, lines, _date_s, allowed)
        most = MAX_TIME_S / (FINEST_S if unit_s is None else unit_s)
        allowed = f"a number of at most {most:g}"
        times = self._convert(cells, lines, float, allowed)
        self._check(np.abs(times) <= most, cells, lines, allowed)
        return times

    def tokens(self, cells: Sequence[object], lines: Sequence[int]) -> FloatArray:
        """Token counts, as whole floats; zeros pass.

        Raises:
            TraceError: If a cell is negative, not whole, not a number, or longer than any prompt.
        """
        allowed = f"a whole number from 0 to {MAX_TOKENS}"
        tokens = self._convert(cells, lines, float, allowed)
        good = (tokens >= 0) & (tokens <= MAX_TOKENS) & (tokens == np.floor(tokens))
        self._check(good, cells, lines, allowed)
        return tokens

    def _convert(
        self,
        cells: Sequence[object],
        lines: Sequence[int],
        convert: Callable[..., float],
        allowed: str,
    ) -> FloatArray:
        try:
            # float(True) is 1.0, but a truth value is no number of a trace.
            if bool not in set(map(type, cells)):
                return np.fromiter(map(convert, cells), np.float64, len(cells))
        except _NO_VALUE:
            pass
        good = [not isinstance(cell, bool) and _converts(convert, cell) for cell in cells]
        self._check(np.array(good), cells, lines, allowed)
        raise AssertionError("a cell that failed converts at the second attempt")

    def _check(
        self,
        good: np.ndarray[tuple[int], np.dtype[np.bool_]],
        cells: Sequence[object],
        lines: Sequence[int],
        allowed: str,
    ) -> None:
        if good.all():
            return
        first = int(good.argmin())
        shown = repr(cells[first])
        if len(shown) > _LONGEST_SHOWN:
            shown = shown[:_LONGEST_SHOWN] + "..."
        raise TraceError(
            f"{self._where}, line {lines[first]}, column {self._column!r}: {shown} is not allowed: "
            f"must be {allowed}. Correct or remove the line."
        )


def _is_number(cell: object) -> bool:
    return _converts(float, cell)


def _converts(convert: Callable[..., float], cell: object) -> bool:
    try:
        convert(cell)
    except _NO_VALUE:
        return False
    return True


def _date_s(cell: str) -> float:
    moment = datetime.fromisoformat(cell.strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH).total_seconds()
