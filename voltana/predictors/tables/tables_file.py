"""Profiled tables in a file: what a policy that looks them up starts from beside an engine.

JSON with a version and the stack that was profiled, as `voltana.predictors.profile` has it. Tables
learn nothing, so that those of another stack are refused and never a mere prior.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from voltana.errors import ConfigError, ProfileError
from voltana.predictors.profile import Stack, first_complaint
from voltana.predictors.tables.predictor import TablePredictor
from voltana.users_file import load_json, read_text
from voltana.whole_file import write_whole

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

FORMAT = "voltana-latency-tables"

Coefficient = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Row2 = tuple[Coefficient, Coefficient]
Row3 = tuple[Coefficient, Coefficient, Coefficient]


class TablesFile(BaseModel):
    """What the file holds; rows as `TablePredictor` has them.

    Attributes:
        format: Tells the file from others.
        version: Of the format.
        stack: What was profiled.
        clocks_mhz: Profiled clocks, ascending.
        prefill: A row for each clock; None if prefill was not profiled.
        decode: For each clock a row for each batch tile; None likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["voltana-latency-tables"] = "voltana-latency-tables"
    version: Literal[1] = 1
    stack: Stack
    clocks_mhz: tuple[Annotated[float, Field(gt=0)], ...]
    prefill: tuple[Row2, ...] | None = None
    decode: tuple[tuple[Row3, ...], ...] | None = None


def save_tables(tables: TablePredictor, stack: Stack, path: Path) -> None:
    """Write tables that were profiled on a stack."""
    made = TablesFile.model_validate({"stack": stack, **tables.to_dict()})
    write_whole(path, (json.dumps(made.model_dump(), indent=1) + "\n").encode())


def holds_tables(path: Path) -> bool:
    """Whether a file says of itself that it holds tables; False for one that cannot be read."""
    try:
        values: Any = load_json(read_text(path))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("format") == FORMAT


def load_tables(path: Path, expect: Stack | None = None) -> TablePredictor:
    """Read tables.

    Args:
        path: The file.
        expect: What is running; None takes the tables of any stack.

    Raises:
        ProfileError: If it cannot be read, holds no tables of this version, or those of another
            stack; the text names the field.
    """
    try:
        found = TablesFile.model_validate(load_json(read_text(path)))
        tables = TablePredictor.from_dict(found.model_dump())
    except OSError as error:
        raise ProfileError(
            f"tables {path} cannot be read: {error.strerror}. Check the path."
        ) from None
    except (ValueError, ConfigError) as error:
        what = first_complaint(error) if isinstance(error, ValidationError) else str(error)
        raise ProfileError(
            f"tables {path} are not allowed: {what}. Profile the stack again, or correct the field."
        ) from None
    for field in () if expect is None else Stack.model_fields:
        was, runs = getattr(found.stack, field), getattr(expect, field)
        if was != runs:
            raise ProfileError(
                f"tables {path}: stack.{field} = {was!r} is not allowed: must be {runs!r}, which "
                "is running. Tables learn nothing: profile this stack."
            )
    return tables
