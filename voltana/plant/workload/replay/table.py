"""A trace file to three columns of numbers: arrival times, prompt tokens, output tokens."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from voltana.errors import TraceError
from voltana.plant.workload.replay.columns import ColumnReader
from voltana.plant.workload.replay.formats import AUTO, FORMATS, detect
from voltana.plant.workload.replay.source import csv_rows, json_rows, open_text, sniff_container

if TYPE_CHECKING:
    import io
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from voltana.values import FloatArray

CHUNK_ROWS = 1 << 16
"""Rows are converted by the chunk, so that the text of a long trace is never all in memory."""


class Table(NamedTuple):
    """The requests of a file, in its order; each array has the shape (n,), n at least 1."""

    time_s: FloatArray
    prompt_tokens: FloatArray
    output_tokens: FloatArray


class _Columns(NamedTuple):
    """Which columns hold time, prompt and output, and the unit of the first in seconds."""

    time: str
    prompt: str
    output: str
    unit_s: float


def read_table(file: Path, trace_format: str) -> Table:
    """Read a trace file.

    Args:
        file: Its path.
        trace_format: A name of `FORMAT_NAMES`.

    Raises:
        TraceError: If the file cannot be read, lacks a column, or a cell is impossible.
    """
    with open_text(file) as text:
        container = sniff_container(text, file)
        columns, keys, rows = _open_rows(text, file, trace_format, container)
        time, prompt, output = (ColumnReader(str(file), name) for name in columns[:3])
        parts = [
            (
                time.times_s(cells[0], lines, columns.unit_s),
                prompt.tokens(cells[1], lines),
                output.tokens(cells[2], lines),
            )
            for lines, cells in _chunks(rows, keys, columns[:3], file)
        ]
    if not parts:
        raise TraceError(f"{file}: holds a header but no request. Name a file with requests.")
    return Table(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _open_rows(
    text: io.TextIOBase, file: Path, trace_format: str, container: str
) -> tuple[_Columns, Sequence[Any], Iterator[tuple[int, Any]]]:
    """Choose the columns; return them, the keys of their cells in a row, and the rows."""
    if container == "csv":
        rows: Iterator[tuple[int, Any]] = csv_rows(text, file)
        _, header = next(rows)
        columns = _choose_columns(file, trace_format, header, container)
        return columns, [header.index(name) for name in columns[:3]], rows
    rows = json_rows(text, file)
    first = next(rows)
    columns = _choose_columns(file, trace_format, first[1], container)
    return columns, columns[:3], chain([first], rows)


def _choose_columns(
    file: Path, trace_format: str, present: Collection[str], container: str
) -> _Columns:
    chosen = detect(present, container) if trace_format == AUTO else FORMATS[trace_format]
    if chosen.container not in {None, container}:
        raise TraceError(
            f"{file}: is {container.upper()}, not {chosen.name.upper()}. Give the format "
            f"{container!r} or {AUTO!r}."
        )
    found = [
        next((name for name in wanted if name in present), None)
        for wanted in (chosen.time, chosen.prompt, chosen.output)
    ]
    time, prompt, output = found
    if time is None or prompt is None or output is None:
        missing = [
            f"{role} ({' or '.join(wanted)})"
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
            f"{', '.join(list(present)[:12])[:200]}. Give another format, or rename the columns in "
            "its first line."
        )
    return _Columns(time, prompt, output, chosen.time[time])


def _chunks(
    rows: Iterator[tuple[int, Any]], keys: Sequence[Any], names: Sequence[str], file: Path
) -> Iterator[tuple[list[int], list[list[object]]]]:
    """Line numbers, and the cells of each column, of `CHUNK_ROWS` rows at a time."""
    while batch := list(islice(rows, CHUNK_ROWS)):
        lines = [line for line, _ in batch]
        cells: list[list[object]] = []
        for key, name in zip(keys, names, strict=True):
            try:
                cells.append([row[key] for _, row in batch])
            except (IndexError, KeyError):
                line = next(line for line, row in batch if not _has(row, key))
                raise TraceError(
                    f"{file}, line {line}: has no column {name!r}. Complete or remove the line."
                ) from None
        yield lines, cells


def _has(row: Any, key: Any) -> bool:
    return key in row if isinstance(row, dict) else key < len(row)
