"""The list of a sweep: one scenario a row, in JSON, JSON Lines, CSV or TOML."""

from __future__ import annotations

import csv
import io
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
    if not (isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)):
        raise ConfigError(
            f"list {str(path)!r} holds no rows, so that the sweep is empty. Give at least "
            "one object (or line, or [[run]]) of scenario fields."
        )
    return [_flat(row) for row in rows]


def _parsed(path: Path, text: str) -> Any:
    match path.suffix.lower():
        case ".json":
            return load_json(text)
        case ".jsonl":
            return [load_json(line) for line in text.split("\n") if line.strip()]
        case ".toml":
            return load_toml(text).get(TOML_KEY)
        case ".csv":
            return _table(path, csv.DictReader(io.StringIO(text, newline=""), strict=True))
    raise invalid("list", str(path), "a .json, .jsonl, .csv or .toml file", "Name its format so.")


def _table(path: Path, rows: csv.DictReader[str]) -> list[dict[str, Any]]:
    names = list(rows.fieldnames or ())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"list {str(path)!r} has the column {twice!r:.80} twice. Remove or rename one."
        )
    return [_cells(path, row) for row in rows]


def _cells(path: Path, row: dict[str | None, Any]) -> dict[str, Any]:
    if None in row or None in row.values():
        raise ConfigError(
            f"list {str(path)!r} has a row that is not as long as its header. Give every row one "
            "cell a column; quote text that holds commas."
        )
    return {str(name): value_of(cell) for name, cell in row.items() if cell.strip()}


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in row.items():
        below = (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, dict)
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
