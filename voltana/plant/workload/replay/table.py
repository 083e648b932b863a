"""A trace file to three columns of numbers: arrival times, prompt tokens, output tokens."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from voltana.errors import TraceError
from voltana.plant.workload.replay.columns import ColumnReader
from voltana.plant.workload.replay.engine_log import engine_log_rows
from voltana.plant.workload.replay.formats import (
    AUTO,
    CSV,
    FORMATS,
    JSON,
    LOG,
    SGLANG,
    TraceFormat,
    detect,
    normalise,
)
from voltana.plant.workload.replay.jsontext import json_objects
from voltana.plant.workload.replay.shared import SharedColumns
from voltana.plant.workload.replay.source import csv_rows, open_text, sniff_container
from voltana.plant.workload.replay.units import UNITS, TimeUnit, decide_unit

if TYPE_CHECKING:
    import io
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from voltana.plant.workload.prefixes import Prefixes
    from voltana.values import FloatArray

CHUNK_ROWS = 1 << 16
"""Rows are converted by the chunk, so that the text of a long trace is never all in memory."""


_NAMED = 4
"""So many names of a missing column are said."""

_SHOWN = 200
"""So many characters are said of the columns that a file has."""


class Table(NamedTuple):
    """The requests of a file, in its order; each array has the shape (n,), n at least 1."""

    time_s: FloatArray
    prompt_tokens: FloatArray
    output_tokens: FloatArray
    prefixes: Prefixes | None = None
    cached_tokens: FloatArray | None = None

    def take(self, which: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Table:
        """Some of the requests, in this order."""
        return Table(
            self.time_s[which],
            self.prompt_tokens[which],
            self.output_tokens[which],
            self.prefixes and self.prefixes.take(which),
            None if self.cached_tokens is None else self.cached_tokens[which],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A file whose format is known.

    Attributes:
        names: Columns of time, prompt and output, for errors.
        keys: Where their cells are in a row.
        rows: Line numbers and rows.
        unit_s: Unit of the times, in seconds; None if they are to decide it.
        usual_s: The unit if nothing speaks against it.
        shared: Reads what the prompts share.
    """

    names: tuple[str, str, str]
    keys: Sequence[Any]
    rows: Iterator[tuple[int, Any]]
    unit_s: float | None
    usual_s: float
    shared: SharedColumns


def read_table(file: Path, trace_format: str, time_unit: str = AUTO) -> tuple[Table, str]:
    """Read a trace file.

    Args:
        file: Its path.
        trace_format: A name of `FORMAT_NAMES`.
        time_unit: A name of `UNITS`, or ``auto``.

    Returns:
        The table, and what users should know of the unit of its times; else empty.

    Raises:
        TraceError: If the file cannot be read, lacks a column, or a cell is impossible.
    """
    with open_text(file) as text:
        opened = _open_rows(text, file, trace_format)
        unit_s = opened.unit_s if time_unit == AUTO else UNITS[time_unit]
        time, prompt, output = (ColumnReader(str(file), name) for name in opened.names)
        parts = []
        for lines, cells, rows in _chunks(opened, file):
            times = time.times(cells[0], lines, unit_s)
            prompts = prompt.tokens(cells[1], lines)
            parts.append((times, prompts, output.tokens(cells[2], lines)))
            opened.shared.read(lines, rows, prompts)
    if not parts:
        raise TraceError(f"{file}: holds a header but no request. Name a file with requests.")
    times, prompts, outputs = (np.concatenate(column) for column in zip(*parts, strict=True))
    unit = TimeUnit(1.0, "")
    if not time.dates:
        unit = TimeUnit(unit_s, "") if unit_s is not None else decide_unit(times, opened.usual_s)
    shared = opened.shared
    times = times * unit.seconds
    return Table(times, prompts, outputs, shared.prefixes, shared.cached_tokens), unit.because


def _open_rows(text: io.TextIOBase, file: Path, trace_format: str) -> _Opened:
    """Tell container and format, and open the rows under the columns of the format."""
    container = sniff_container(text, file)
    if container == LOG and trace_format not in {AUTO, SGLANG.name}:
        raise _other_container(file, "the request log of SGLang", trace_format)
    if container == LOG or trace_format == SGLANG.name:
        return _keyed(file, SGLANG, engine_log_rows(text, file))
    if container == CSV:
        return _open_csv(text, file, trace_format)
    return _open_json(text, file, trace_format)


def _open_csv(text: io.TextIOBase, file: Path, trace_format: str) -> _Opened:
    rows = csv_rows(text, file)
    _, header = next(rows)
    chosen = _choose(file, trace_format, header, CSV)
    names = _columns(file, chosen, header)
    keys = [header.index(name) for name in names]
    shared = SharedColumns(file, chosen, {name: index for index, name in enumerate(header)})
    return _opened(chosen, names, keys, rows, shared)


def _open_json(text: io.TextIOBase, file: Path, trace_format: str) -> _Opened:
    objects = json_objects(text, file)
    first = _first(objects, file)
    chosen = _choose(file, trace_format, [normalise(key) for key in first[1]], JSON)
    objects = chain([first], objects)
    if chosen.unnest is not None:
        return _keyed(file, chosen, chosen.unnest(objects, file))
    return _keyed(file, chosen, _spread(_normalised(objects), chosen, file))


def _keyed(file: Path, chosen: TraceFormat, rows: Iterator[tuple[int, Any]]) -> _Opened:
    """Rows whose cells have names; the first row must have those of the format."""
    first = _first(rows, file)
    names = _columns(file, chosen, first[1])
    shared = SharedColumns(file, chosen, {name: name for name in first[1]})
    return _opened(chosen, names, names, chain([first], rows), shared)


def _first(rows: Iterator[tuple[int, Any]], file: Path) -> tuple[int, Any]:
    first = next(rows, None)
    if first is None:
        raise TraceError(f"{file}: holds no request. Name a file with requests.")
    return first


def _opened(
    chosen: TraceFormat,
    names: tuple[str, str, str],
    keys: Sequence[Any],
    rows: Iterator[Any],
    shared: SharedColumns,
) -> _Opened:
    time, usual_s = names[0], chosen.time[names[0]]
    unit_s = None if time in chosen.unsure else usual_s
    return _Opened(names=names, keys=keys, rows=rows, unit_s=unit_s, usual_s=usual_s, shared=shared)


def _choose(file: Path, trace_format: str, present: Collection[str], container: str) -> TraceFormat:
    if trace_format == AUTO:
        return detect(present, container)
    chosen = FORMATS[trace_format]
    if container not in chosen.containers:
        raise _other_container(file, container.upper(), trace_format)
    return chosen


def _other_container(file: Path, found: str, asked: str) -> TraceError:
    fitting = {CSV: "'csv'", LOG: "'sglang'"}.get(found.lower(), "'jsonl'")
    fitting = "'sglang'" if "SGLang" in found else fitting
    return TraceError(
        f"{file}: is {found}, not {asked.upper()}. Give the format {fitting} or {AUTO!r}."
    )


def _columns(file: Path, chosen: TraceFormat, present: Collection[str]) -> tuple[str, str, str]:
    found = [
        next((name for name in wanted if name in present), None)
        for wanted in (chosen.time, chosen.prompt, chosen.output)
    ]
    time, prompt, output = found
    if time is None or prompt is None or output is None:
        missing = [
            f"{role} ({_listed(wanted)})"
            for role, wanted, name in zip(
                ("arrival time", "prompt tokens", "output tokens"),
                (chosen.time, chosen.prompt, chosen.output),
                found,
                strict=True,
            )
            if name is None
        ]
        raise TraceError(
            f"{file}: as {chosen.name!r} it lacks a column for {'; for '.join(missing)}. It has: "
            f"{_printable(', '.join(map(str, list(present)[:12])))}. {chosen.hint}"
        )
    return time, prompt, output


def _listed(wanted: Collection[str]) -> str:
    """The first of many names; a message is read, the full list is looked up."""
    first = " or ".join(list(wanted)[:_NAMED])
    return first if len(wanted) <= _NAMED else f"{first} or others, see docs/workloads.md"


def _printable(text: str) -> str:
    """What a terminal may be sent of a file that can be anything."""
    return "".join(c if c.isprintable() else "?" for c in text[:_SHOWN])


def _normalised(objects: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, row in objects:
        yield line, {normalise(key): value for key, value in row.items()}


def _spread(
    rows: Iterator[tuple[int, Mapping[str, Any]]], chosen: TraceFormat, file: Path
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows whose cells are whole columns, as one row for each of their values; others pass."""
    for line, row in rows:
        names = None
        if any(isinstance(row.get(name), list) for name in chosen.time):
            names = _columns(file, chosen, row)
        if names is None:
            yield line, row
            continue
        columns = [row[name] for name in names]
        if not all(isinstance(column, list) for column in columns):
            raise TraceError(
                f"{file}, line {line}: only some of {', '.join(names)} are lists. Give one value "
                "a request in each of them."
            )
        if len({len(column) for column in columns}) > 1:
            lengths = ", ".join(f"{len(c)} of {n}" for n, c in zip(names, columns, strict=True))
            raise TraceError(
                f"{file}, line {line}: its lists differ in length ({lengths}). Give one value a "
                "request in each of them."
            )
        for cells in zip(*columns, strict=True):
            yield line, dict(zip(names, cells, strict=True))


def _chunks(
    opened: _Opened, file: Path
) -> Iterator[tuple[list[int], list[list[object]], list[Any]]]:
    """Line numbers, the cells of each column, and all cells, of `CHUNK_ROWS` rows at a time."""
    while batch := list(islice(opened.rows, CHUNK_ROWS)):
        lines = [line for line, _ in batch]
        cells: list[list[object]] = []
        for key, name in zip(opened.keys, opened.names, strict=True):
            try:
                cells.append([row[key] for _, row in batch])
            except (IndexError, KeyError):
                line = next(line for line, row in batch if not _has(row, key))
                raise TraceError(
                    f"{file}, line {line}: has no column {name!r}. Complete or remove the line."
                ) from None
        yield lines, cells, [row for _, row in batch]


def _has(row: Any, key: Any) -> bool:
    return key in row if isinstance(row, dict) else key < len(row)
