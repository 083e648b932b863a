"""Measurements of one's own board, as a CSV file: one row an iteration, or an idle board."""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.errors import ConfigError, TraceError
from voltana.plant.workload.replay.source import open_text
from voltana.users_file import read_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PHASES = ("decode", "prefill", "idle")
COLUMNS = ("phase", "batch", "context", "clock_mhz", "latency_s", "latency_ms", "power_w")
MOST_BATCH = 65_536
MOST_CONTEXT = 10_000_000
LONGEST_S = 3600.0
LEAST_ROWS, MOST_ROWS = 6, 50_000
_SHOWN = 40
_SCALES = {"latency_s": 1.0, "latency_ms": 1e-3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One row.

    Attributes:
        line: Where it stands in the file.
        phase: ``decode``, ``prefill`` or ``idle``.
        batch: Requests of the iteration; 0 of an idle board.
        context: Tokens of each: in the cache while decoding, of the prompt in prefill; 0 if idle.
        clock_mhz: SM clock that ran.
        latency_s: Of the iteration; nan if idle, or where it was not measured.
        power_w: Of all boards of the instance; nan where it was not measured.
    """

    line: int
    phase: str
    batch: int
    context: int
    clock_mhz: float
    latency_s: float
    power_w: float


def read_measurements(
    path: Path, *, clocks_mhz: tuple[float, float], most_w: float
) -> tuple[Measurement, ...]:
    """Read a file of measurements.

    Args:
        path: CSV, gzipped or not, with a header: ``phase``, ``batch``, ``context``, ``clock_mhz``,
            ``latency_ms`` or ``latency_s``, and, if measured, ``power_w``.
        clocks_mhz: Lowest and highest clock of the board.
        most_w: More power than the boards can draw.

    Raises:
        ConfigError: If it cannot be read, lacks a column or rows, or a cell is out of range; the
            text names line, column, value, range and remedy.
    """
    try:
        with open_text(path) as text:
            lines = list(itertools.islice(_records(text, path), MOST_ROWS + 2))
    except TraceError as error:
        raise ConfigError(str(error)) from None
    if len(lines) > MOST_ROWS + 1:
        raise ConfigError(
            f"{path}: has more than {MOST_ROWS} rows: must be at most so many, as a fit goes over "
            "all of them some hundred times. Keep every tenth row, or the mean of those that have "
            "phase, batch, context and clock alike."
        )
    header = _header(lines, path)
    rows = _Rows(path, header, clocks_mhz, most_w)
    found = tuple(rows.read(line, cells) for line, cells in lines[1:])
    if len(found) < LEAST_ROWS:
        raise ConfigError(
            f"{path}: rows = {len(found)} is not allowed: must be at least {LEAST_ROWS}, over "
            "several batches and clocks. Measure more points."
        )
    return found


def _records(text: Iterator[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """Lines that are neither blank nor a remark, split at what the header is split at."""
    content = [(number, line) for number, line in enumerate(text, start=1)]
    told = [each for each in content if each[1].strip() and not each[1].lstrip().startswith("#")]
    if not told:
        raise ConfigError(f"{path}: is empty. Give a header ({','.join(COLUMNS)}) and rows.")
    header = told[0][1].lower()
    delimiter = max(
        ",;\t", key=lambda mark: sum(c.strip(' "\r\n') in COLUMNS for c in header.split(mark))
    )
    for number, line in told:
        try:
            (cells,) = csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True)
        except (csv.Error, ValueError) as error:
            raise ConfigError(
                f"{path}, line {number}: is not CSV ({error}). Repair or remove the line."
            ) from None
        if delimiter == ";":
            cells = [cell.replace(",", ".") for cell in cells]
        yield number, [cell.strip() for cell in cells]


def _header(lines: Sequence[tuple[int, list[str]]], path: Path) -> list[str]:
    line, cells = lines[0]
    header = [cell.lower() for cell in cells]
    for name in header:
        if name not in COLUMNS:
            raise ConfigError(
                f"{path}, line {line}: column {_shown(name)} is not allowed: must be one of "
                f"{', '.join(COLUMNS)}. Rename it in the header, or remove it."
            )
        if header.count(name) > 1:
            raise ConfigError(f"{path}, line {line}: column {name!r} is there twice. Remove one.")
    for name in ("phase", "batch", "context", "clock_mhz"):
        if name not in header:
            raise ConfigError(f"{path}, line {line}: lacks the column {name!r}. Add it.")
    if sum(name in header for name in _SCALES) != 1:
        raise ConfigError(
            f"{path}, line {line}: must have either 'latency_s' or 'latency_ms'. Name the column "
            "after its unit."
        )
    return header


class _Rows:
    """Turns cells into measurements, and names what is wrong with one."""

    def __init__(
        self, path: Path, header: list[str], clocks_mhz: tuple[float, float], most_w: float
    ) -> None:
        self._path = path
        self._header = header
        self._clocks_mhz = clocks_mhz
        self._most_w = most_w
        self._latency = next(name for name in _SCALES if name in header)

    def read(self, line: int, cells: list[str]) -> Measurement:
        if len(cells) != len(self._header):
            raise ConfigError(
                f"{self._path}, line {line}: cells = {len(cells)} is not allowed: must be "
                f"{len(self._header)}, as many as the header has. Repair or remove the line."
            )
        row = dict(zip(self._header, cells, strict=True))
        phase = row["phase"].lower()
        if phase not in PHASES:
            raise self._wrong(line, "phase", row["phase"], f"one of {', '.join(PHASES)}")
        idle = phase == "idle"
        low, high = self._clocks_mhz
        power_w = self._power(line, row, needed=idle)
        return Measurement(
            line=line,
            phase=phase,
            batch=0 if idle else self._count(line, row, "batch", MOST_BATCH),
            context=0 if idle else self._count(line, row, "context", MOST_CONTEXT),
            clock_mhz=self._number(
                line, row, "clock_mhz", (low, high), f"{low:g}-{high:g} MHz, the board's clocks"
            ),
            latency_s=math.nan if idle else self._latency_s(line, row),
            power_w=power_w,
        )

    def _latency_s(self, line: int, row: dict[str, str]) -> float:
        name = self._latency
        scale, unit = _SCALES[name], name.removeprefix("latency_")
        most = LONGEST_S / scale
        allowed = f"more than 0 and at most {most:g} {unit}"
        return scale * self._number(line, row, name, (1e-9 / scale, most), allowed)

    def _power(self, line: int, row: dict[str, str], *, needed: bool) -> float:
        if not row.get("power_w") and not needed:
            return math.nan
        allowed = (
            f"more than 0 and at most {self._most_w:g} W, twice the limit of the instance's boards"
        )
        return self._number(line, row, "power_w", (1e-3, self._most_w), allowed)

    def _count(self, line: int, row: dict[str, str], name: str, most: int) -> int:
        allowed = f"a whole number from 1 to {most}"
        value = self._number(line, row, name, (1, most), allowed)
        if value != int(value):
            raise self._wrong(line, name, row[name], allowed)
        return int(value)

    def _number(
        self,
        line: int,
        row: dict[str, str],
        name: str,
        within: tuple[float, float],
        allowed: str,
    ) -> float:
        text = row.get(name, "")
        try:
            value = read_number(text)
        except ValueError:
            value = math.nan
        if not within[0] <= value <= within[1]:
            raise self._wrong(line, name, text, allowed)
        return value

    def _wrong(self, line: int, column: str, value: str, allowed: str) -> ConfigError:
        return ConfigError(
            f"{self._path}, line {line}, column {column!r}: {_shown(value)} is not allowed: must "
            f"be {allowed}. Correct or remove the line."
        )


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
