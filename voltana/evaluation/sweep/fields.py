"""The scenario fields that a sweep may vary: their names, and how a user writes values."""

from __future__ import annotations

import math
import re
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from voltana.config import ScenarioFile
from voltana.errors import ConfigError, invalid, unknown_name
from voltana.evaluation.scenario import ARRIVALS
from voltana.users_file import load_json, read_number
from voltana.validation import StrictTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


RATIO = "pd"
"""A field of the sweep's own: prefill and decode instances together, such as 2:2 or 1P3D."""

POLICIES = "policies"

_FLAGS = {
    "policy": POLICIES,
    "rate": f"{ARRIVALS}.rate_rps",
    "duration": f"{ARRIVALS}.duration_s",
    "workload": "workload.name",
    "trace": "trace.file",
    "rates": "workload.rates_file",
    "rates_start": "workload.rates_start_s",
    "trace_format": "trace.format",
    "window_start": "trace.start_s",
    "power_budget": "power_budget_w",
    "budget_schedule": "power_budget_file",
    "slo_ttft_ms": "slo.ttft_ms",
    "slo_itl_ms": "slo.itl_ms",
    "tp": "cluster.tensor_parallel",
}
"""What `voltana simulate` calls fields whose names are others."""

_NUMBER = r"-?[\d.]+?(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?:\.\.({_NUMBER}))?")
_RATIO = re.compile(r"([0-9]+)(?::|[pP])([0-9]+)[dD]?")

MOST_VALUES = 100_000
"""Values of one range; more is a slip of the pen."""


def tables_of(model: type[StrictTable]) -> dict[str, type[StrictTable]]:
    """The tables of a model, by the names of the fields that hold one each."""
    found = {}
    for name, field in model.model_fields.items():
        annotation = field.annotation
        union = get_origin(annotation) in {Union, UnionType}
        for kind in get_args(annotation) if union else (annotation,):
            if isinstance(kind, type) and issubclass(kind, StrictTable):
                found[name] = kind
    return found


def scenario_fields() -> tuple[str, ...]:
    """Dotted names of all fields of a scenario, in the order of its file."""
    tables = tables_of(ScenarioFile)
    names: list[str] = []
    for name in ScenarioFile.model_fields:
        table = tables.get(name)
        names += [name] if table is None else [f"{name}.{key}" for key in table.model_fields]
    return tuple(names)


def field_name(given: str) -> str:
    """The dotted name of a field that a user named.

    Args:
        given: The dotted name; or its last part where no other field ends so; or the name of the
            flag of `voltana simulate`. What a trace and a synthetic workload have both, such as
            ``rate_rps``, goes to the one that the scenario has.

    Raises:
        UnknownNameError: If there is no such field; the text lists all.
        ConfigError: If it ends several.
    """
    known, name = scenario_fields(), given.strip().replace("-", "_")
    if name == RATIO or name in known or name.startswith(f"{ARRIVALS}."):
        return name
    if name in _FLAGS:
        return _FLAGS[name]
    ends = [field for field in known if field.rpartition(".")[2] == name]
    if {field.partition(".")[0] for field in ends} == {"trace", "workload"}:
        return f"{ARRIVALS}.{name}"
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ConfigError(f"field {given!r} may be {' or '.join(ends)}: write which is meant.")
    raise unknown_name("scenario field", given, [*known, RATIO, *_FLAGS])


def parse_axis(text: str) -> tuple[str, tuple[Any, ...]]:
    """A field and its values from ``FIELD=VALUES``.

    Values are separated by commas; ``A..B`` and ``A..B..STEP`` are ranges with both ends; a JSON
    list takes values that hold commas. A value is a number, ``true``, ``false``, ``none`` (leaves
    the field as the scenario has it) or text.

    Raises:
        ConfigError: If the field is unknown or there is no value.
    """
    given, separator, values = text.partition("=")
    if not separator:
        raise ConfigError(
            f"axis {text!r} is not allowed: must be FIELD=VALUES. Write, for example, "
            "workload.rate_rps=40,60,80 or seed=11..13."
        )
    name = field_name(given)
    return name, check_values(given, _values(given, values.strip()))


def check_values(given: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of an axis, if there are any.

    Raises:
        ConfigError: If there is none.
    """
    if not values:
        raise ConfigError(
            f"axis {given!r} has no values, so that the grid is empty. Give at least one, such as "
            f"{given}=1,2."
        )
    return values


def _values(given: str, text: str) -> tuple[Any, ...]:
    if text.startswith("["):
        try:
            listed = load_json(text)
        except ValueError as error:
            raise ConfigError(
                f"axis {given!r} = {text!r} is not a JSON list: {error}. "
                "Write text in double quotes."
            ) from None
        return tuple(listed)
    return tuple(value for part in text.split(",") if part.strip() for value in _part(given, part))


def _part(given: str, text: str) -> tuple[Any, ...]:
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        return (value_of(text),)
    try:
        first, last, step = (read_number(part or "1") for part in found.groups())
    except ValueError:
        return (value_of(text),)
    steps = (last - first) / step + 1e-9 if step > 0 else -1.0
    if not 0 <= steps < MOST_VALUES:  # nor what is beyond all numbers
        raise invalid(
            given,
            text.strip(),
            f"FIRST..LAST or FIRST..LAST..STEP with 1 to {MOST_VALUES} values, smallest first",
            "50..100..10 is 50, 60, 70, 80, 90 and 100.",
        )
    made = (first + index * step for index in range(math.floor(steps) + 1))
    return tuple(int(value) if value == int(value) else _short(value) for value in made)


def _short(value: float) -> float:
    """A value without what adding steps up left behind its last digits."""
    return float(f"{value:.12g}")


def value_of(text: str) -> Any:
    """A number, true, false, None or text."""
    text = text.strip()
    if text.lower() == "none":
        return None
    try:
        value: Any = load_json(text)
    except ValueError:
        return text
    return text if isinstance(value, float) and not math.isfinite(value) else value


def check_once(names: Iterable[str]) -> None:
    """Refuse fields of which one would silently win over another.

    Args:
        names: Of the fields of one scenario, as `field_name` gives them, a field as often as it
            was named.

    Raises:
        ConfigError: If two set the same key.
    """
    said: dict[str, str] = {}
    for name in names:
        for key in _keys(name):
            if key in said:
                raise ConfigError(
                    f"fields {_spoken(said[key])!r} and {_spoken(name)!r} both set {key}, so that "
                    "one of them would be ignored. Leave one out."
                )
            said[key] = name


def _keys(name: str) -> tuple[str, ...]:
    """What a field sets in a scenario file."""
    if name == RATIO:
        return "cluster.prefill", "cluster.decode"
    if name.startswith(f"{ARRIVALS}."):
        key = name.removeprefix(f"{ARRIVALS}.")
        return f"workload.{key}", f"trace.{key}"
    return (name,)


def _spoken(name: str) -> str:
    return name.removeprefix(f"{ARRIVALS}.")


def as_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, as `voltana.evaluation.scenario.overlay` takes them, of values by field.

    Raises:
        ConfigError: If a ratio of instances cannot be read.
    """
    tables: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):  # which would be laid over what the field has, or vanish
            raise invalid(
                _spoken(name), value, "a value, not an object", "Name its fields with dots."
            )
        if name == RATIO:
            tables.setdefault("cluster", {}).update(_instances(value))
        elif name == POLICIES:
            tables[name] = value.split(",") if isinstance(value, str) else value
        elif "." in name:
            table, _, key = name.partition(".")
            tables.setdefault(table, {})[key] = value
        else:
            tables[name] = value
    return tables


def _instances(value: object) -> dict[str, int]:
    found = _RATIO.fullmatch(str(value).strip())
    if found is None:
        raise invalid(
            RATIO, value, "PREFILL:DECODE or such as 1P3D", "2:2 is two instances of either role."
        )
    return {"prefill": int(found[1]), "decode": int(found[2])}
