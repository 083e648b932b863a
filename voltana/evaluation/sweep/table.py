"""The results of a sweep as Parquet: the same runs make the same file, byte by byte.

What a machine took (`TIMED`) differs from run to run, so that it has a file of its own beside.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from voltana import __version__
from voltana.config import ScenarioFile
from voltana.errors import ConfigError
from voltana.evaluation.metrics import Result
from voltana.evaluation.sweep.fields import scenario_fields, tables_of
from voltana.evaluation.sweep.knowledge import board_knowledge
from voltana.evaluation.sweep.store import REMEDY, RESULTS, SCHEMA, TIMING
from voltana.extras import require
from voltana.users_file import load_json, open_file
from voltana.whole_file import write_whole

require("sweep", "writing results as Parquet")

import pyarrow as pa  # noqa: E402
from pyarrow import parquet  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from voltana.evaluation.sweep.knowledge import Knowledge
    from voltana.evaluation.sweep.work import Row

TIMED = ("wall_s", "decide_p50_us", "decide_p99_us")
"""Figures of the machine that simulated, not of what was simulated."""

_FORM = b"voltana_sweep_form"
_CHOSEN = {"chosen_prefill_mhz": pa.float64(), "chosen_decode_mhz": pa.float64(),
           "chosen_keeps_slo": pa.bool_()}  # fmt: skip


def write_parquet(rows: Iterable[Row], folder: Path) -> tuple[Path, Path]:
    """Write the rows of a sweep, and beside them what the machine took for each.

    Returns:
        Both files.

    Raises:
        ConfigError: If one cannot be written.
    """
    rows = list(rows)
    schema = result_schema()
    timing = pa.schema(
        [("run", pa.string()), ("policy", pa.string()), *((name, pa.float64()) for name in TIMED)]
    )
    _write(rows, schema, folder / RESULTS)
    _write(rows, timing, folder / TIMING)
    return folder / RESULTS, folder / TIMING


_ANEW = "Give the command of the sweep again, which makes the file from the runs that are kept."
_NAME = f"Name a folder that 'voltana sweep' wrote, or the {RESULTS} in it."


def result_schema() -> pa.Schema:
    """Columns of the results: the run, every scenario field, every figure."""
    columns: dict[str, pa.DataType] = {"run": pa.string()}
    tables = tables_of(ScenarioFile)
    for name in scenario_fields():
        table, _, key = name.rpartition(".")
        model = tables[table] if table else ScenarioFile
        columns[name] = _type_of(model.model_fields[key].annotation)
    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
    for field in dataclasses.fields(Result):
        if field.name not in TIMED:
            columns[field.name] = kinds.get(str(field.type), pa.string())
    columns |= _CHOSEN
    return pa.schema(list(columns.items()))


class Results(NamedTuple):
    """What a file of results holds.

    Attributes:
        rows: One a scenario and policy.
        knowledge: As `board_knowledge` gives it; empty in files of before it was kept.
    """

    rows: list[Row]
    knowledge: Knowledge


def read_parquet(path: Path) -> list[Row]:
    """The rows of a sweep's results.

    Raises:
        ConfigError: As `read_results`.
    """
    return read_results(path).rows


def read_results(path: Path) -> Results:
    """The rows of a sweep's results, and what is known of their boards.

    Raises:
        ConfigError: If it is no such file, or one of a version with another form.
    """
    try:
        with open_file(path) as file:  # a name need not be text, as Arrow would have it
            table = parquet.read_table(file)
        read = table.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        there = path.exists()
        said = getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(". ")
        reason = said if there else "no such file"
        raise ConfigError(
            f"{str(path)!r} cannot be read as Parquet: {reason}. {_ANEW if there else _NAME}"
        ) from None
    form = _form(table, path)
    if form.get("form") != SCHEMA:
        raise ConfigError(
            f"{str(path)!r} was written by voltana {form.get('voltana')} in form "
            f"{form.get('form')}; this is voltana {__version__}, which reads form {SCHEMA}. "
            "Read it with that version, or sweep again into another folder."
        )
    missing = [name for name in result_schema().names if name not in table.column_names]
    if missing:
        raise ConfigError(
            f"{str(path)!r} has no column {missing[0]!r}: something else has written it anew. "
            f"{_ANEW}"
        )
    try:
        rows = [{name: _read(value) for name, value in row.items()} for row in read]
    except ValueError as error:
        raise ConfigError(
            f"{str(path)!r} has a cell that is no JSON ({error}): something else has written it "
            f"anew. {_ANEW}"
        ) from None
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(
                    f"{str(path)!r} has {name} = {value} in a row: must be finite or null, as a "
                    f"sweep writes it. {_ANEW}"
                )
    return Results(rows, form.get("knowledge", {}))


def _form(table: pa.Table, path: Path) -> dict[str, Any]:
    """What says that a file is of a sweep, and of which version."""
    said = (table.schema.metadata or {}).get(_FORM)
    try:
        form = None if said is None else load_json(said.decode())
    except ValueError:
        form = None
    if not isinstance(form, dict):
        raise ConfigError(f"{str(path)!r} is not of a sweep. Name the {RESULTS} of one.")
    return form


def _write(rows: list[Row], schema: pa.Schema, path: Path) -> None:
    columns = {name: [_plain(row.get(name)) for row in rows] for name in schema.names}
    said = {"form": SCHEMA, "voltana": __version__, "knowledge": board_knowledge(rows)}
    form = json.dumps(said, sort_keys=True).encode()
    table = pa.table(columns, schema=schema).replace_schema_metadata({_FORM: form})
    written = io.BytesIO()
    parquet.write_table(table, written, compression="zstd")
    write_whole(path, written.getvalue(), REMEDY)


def _plain(value: Any) -> Any:
    """Lists and tables as JSON: a column has one type. Bytes that are no text are told as such."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value


def _read(value: Any) -> Any:
    return load_json(value) if isinstance(value, str) and value[:1] in {"[", "{"} else value


def _type_of(annotation: object) -> pa.DataType:
    inner = {annotation, *get_args(annotation)} | {
        kind for part in get_args(annotation) for kind in get_args(part)
    }
    for kind, made in ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64())):
        if kind in inner:
            return made
    return pa.string()
