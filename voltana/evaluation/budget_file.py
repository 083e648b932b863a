"""Reads a power budget over time: CSV of times and watts, or TOML or JSON, which may repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from voltana.controllers.budget_schedule import BudgetSchedule
from voltana.errors import ConfigError
from voltana.evaluation.time_series import read_series
from voltana.users_file import load_json, read_text, read_toml
from voltana.validation import NotNegative, Positive, StrictTable, explain

if TYPE_CHECKING:
    from pathlib import Path

FIELD = "power_budget_file"
_REMEDY = "See docs/power-budget.md for an example."


class BudgetStep(StrictTable):
    """One row of a schedule."""

    at_s: NotNegative = Field(description="when it begins, in seconds of the run")
    watts: Positive = Field(description="what holds from then on")


class BudgetFile(StrictTable):
    """A schedule as TOML or JSON.

    Attributes:
        step: The rows, by ascending times.
        repeat_s: Time after which it begins anew; None lets the last row hold for ever.
    """

    step: tuple[BudgetStep, ...] = Field(min_length=1, description="the rows ([[step]])")
    repeat_s: Positive | None = Field(default=None, description="when it begins anew, in seconds")


def read_budget(path: Path) -> BudgetSchedule:
    """Read a schedule; a name that ends in ``.toml`` or ``.json`` says which, all others are CSV.

    Raises:
        ConfigError: If it cannot be read, or has an unknown key or a row that is none.
    """
    if path.suffix not in {".toml", ".json"}:
        from_s, budget_w = read_series(FIELD, path, figure="a number of watts", remedy=_REMEDY)
        return _schedule(path, from_s, budget_w, None)
    try:
        is_toml = path.suffix == ".toml"
        tables = read_toml(path) if is_toml else load_json(read_text(path))
        file = BudgetFile.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(f"{FIELD} {str(path)!r}: {explain(error, BudgetFile)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{FIELD} = {str(path)!r} cannot be read: {reason}. {_REMEDY}") from None
    times, watts = [row.at_s for row in file.step], [row.watts for row in file.step]
    return _schedule(path, times, watts, file.repeat_s)


def row_below(path: Path, schedule: BudgetSchedule, needed_w: float, why: str) -> ConfigError:
    """What to say of a schedule that falls below what a cluster needs at least.

    Args:
        path: Its file.
        schedule: What was read from it.
        needed_w: What is needed, more than its smallest row.
        why: What needs so much.
    """
    rows = schedule.rows_below(needed_w)
    first, more = rows[0], len(rows) - 1
    others = f", and {more} more row{'s are' if more > 1 else ' is'} too low" if more else ""
    return ConfigError(
        f"{FIELD}: row {first} of {str(path)!r} (from {schedule.from_s[first - 1]:g} s) is "
        f"{schedule.budget_w[first - 1]:g} W{others}: must be at least {needed_w:g} W: {why}. "
        f"Raise {'them' if more else 'it'}, or run fewer instances."
    )


def _schedule(
    path: Path, from_s: list[float], budget_w: list[float], repeat_s: float | None
) -> BudgetSchedule:
    """The schedule; what is wrong with its rows is said with the place of the first such row."""
    for place, (at_s, watts) in enumerate(zip(from_s, budget_w, strict=True), start=1):
        if not watts > 0:
            raise ConfigError(
                f"{FIELD}: row {place} of {str(path)!r} (at {at_s:g} s) is {watts:g} W: must be "
                "above 0 W. Mend or remove it."
            )
        if place > 1 and at_s <= from_s[place - 2]:
            raise ConfigError(
                f"{FIELD}: row {place} of {str(path)!r} begins at {at_s:g} s, and the one before "
                f"it at {from_s[place - 2]:g} s: must have ascending times. Sort the rows."
            )
    try:
        return BudgetSchedule(from_s=tuple(from_s), budget_w=tuple(budget_w), repeat_s=repeat_s)
    except ConfigError as error:
        raise ConfigError(f"{FIELD} {str(path)!r}: {error}") from None
