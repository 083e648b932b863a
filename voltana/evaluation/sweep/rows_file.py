"""The list of a sweep: one scenario a row, in JSON, JSON Lines, CSV or TOML."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from voltana.errors import ConfigError, invalid
from voltana.evaluation.sweep.fields import value_of
from voltana.users_file import load_json, load_toml, read_text

if TYPE_CHECKING:
    from pathlib import Path

TOML_KEY = "run"
"""Of a TOML file, the array of tables that are the rows."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Values by field, one scenario a row.

    An empty cell of CSV leaves its field to the scenario. Tables of JSON and TOML may be nested.

    Raises:
        ConfigError: If the file cannot be read or holds no rows.
    """
    try:
        text = read_text(path)
        rows = _parsed(path, text)
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"list {str(path)!r} cannot be read: {reason}. See docs/sweep.md for an example."
        ) from None
    if not (isinstance(rows, list) and rows):
        raise ConfigError(
            f"list {str(path)!r} holds no rows, so that the sweep is empty. Give at least "
            "one object (or line, or [[run]]) of scenario fields."
        )
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ConfigError(
                f"row {number} of list {str(path)!r} is {row!r:.80}: must be an object of scenario "
                'fields. Write, for example, {"seed": 11}.'
            )
    return [_flat(row) for row in rows]


def _parsed(path: Path, text: str) -> Any:
    match path.suffix.lower():
        case ".json":
            return load_json(text)
        case ".jsonl":
            lines = enumerate(text.split("\n"), start=1)
            return [_json_line(number, line) for number, line in lines if line.strip()]
        case ".toml":
            return load_toml(text).get(TOML_KEY)
        case ".csv":
            return _table(path, csv.DictReader(io.StringIO(text, newline=""), strict=True))
    raise invalid("list", str(path), "a .json, .jsonl, .csv or .toml file", "Name its format so.")


def _json_line(number: int, line: str) -> Any:
    try:
        return load_json(line)
    except json.JSONDecodeError as error:  # which counts lines from this one
        raise ValueError(f"{error.msg}: line {number} column {error.colno}") from None
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None


def _table(path: Path, rows: csv.DictReader[str]) -> list[dict[str, Any]]:
    names = list(rows.fieldnames or ())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"list {str(path)!r} has the column {twice!r:.80} twice. Remove or rename one."
        )
    return [_cells(path, number, row) for number, row in enumerate(rows, start=1)]


def _cells(path: Path, number: int, row: dict[str | None, Any]) -> dict[str, Any]:
    if None in row or None in row.values():
        raise ConfigError(
            f"row {number} of list {str(path)!r} is not as long as its header. Give every row one "
            "cell a column; quote text that holds commas."
        )
    return {str(name): value_of(cell) for name, cell in row.items() if cell.strip()}


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in row.items():
        below = (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, dict) and value
            else {f"{prefix}{name}": value}
        )
        twice = next((key for key in below if key in made), None)
        if twice is not None:
            raise ConfigError(
                f"a row of the list has the field {twice!r:.80} twice, nested and by its dotted "
                "name. Leave one out."
            )
        made |= below
    return made
