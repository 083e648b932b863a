"""The base of every file and request body that a user writes, and the words for its errors.

Part of the daemon's distribution, because its settings are checked with it and it knows nothing of
the library above; `voltana.validation` is the same for everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from voltana_actuatord.errors import ConfigError, VoltanaError, invalid, unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError, ValidationInfo

MOST = 1e12
"""No figure that a user writes is larger, in whatever unit: what is can only overflow."""

Positive = Annotated[float, Field(gt=0, le=MOST, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=int(MOST))]
WholeNotNegative = Annotated[int, Field(ge=0, le=int(MOST))]
Port = Annotated[int, Field(ge=0, le=65535)]
"""A port to listen on; 0 takes a free one."""


class StrictTable(BaseModel):
    """A table that is frozen, refuses unknown keys, and takes no true or false for a number.

    The descriptions of its fields complete the sentence "It is ...", which errors say as the
    remedy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    PAGE: ClassVar[str] = "docs/simulate.md"
    """Where errors send a reader whose key has no description."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        if _has_bool(value) and info.field_name is not None:
            kinds = _kinds(cls.model_fields[info.field_name].annotation)
            if kinds & {int, float} and bool not in kinds:
                raise ValueError("must be a number")
        return value


def _has_bool(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return any(isinstance(item, bool) for item in value)
    return isinstance(value, bool)


def _kinds(annotation: object) -> set[object]:
    """Every type that an annotation names, at whatever depth."""
    inner = get_args(annotation)
    return {annotation}.union(*map(_kinds, inner)) if inner else {annotation}


_RANGES = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "missing": "given",
    "too_short": "at least one",
    "string_pattern_mismatch": "text of the form {pattern}",
}
"""Allowed ranges in words, by pydantic's type of complaint."""

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "tuple": "a list",
    "model": "a table",
}
"""Allowed types in words, by the first word of pydantic's type of complaint."""


def explain(error: ValidationError, root: type[BaseModel]) -> VoltanaError:
    """Turn the first of pydantic's complaints into one line that names the remedy.

    Args:
        error: What pydantic raised.
        root: The model that was validated; the descriptions of its fields become remedies.
    """
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, VoltanaError):
        return cause
    model, field = _locate(root, first["loc"])
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        where = ".".join(str(part) for part in first["loc"][:-1])
        return unknown_name(
            f"key in [{where}]" if where else "key", str(first["loc"][-1]), list(model.model_fields)
        )
    description = model.model_fields[field].description if field in model.model_fields else None
    page = root.PAGE if issubclass(root, StrictTable) else StrictTable.PAGE
    remedy = f"It is {description}." if description else f"See {page}."
    if isinstance(cause, ValueError):  # of a validator of ours, in its own words
        return ConfigError(f"{name} = {_shown(first)!r} is not allowed: {cause}. {remedy}")
    return invalid(name, _shown(first), _allowed(first["type"], context), remedy)


def _locate(root: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[type[BaseModel], str]:
    """The table in which a complaint lies, and the field of it."""
    model = root
    for part in loc[:-1]:
        inner = _table_of(model, str(part))
        if inner is None:
            return model, str(part)
        model = inner
    return model, str(loc[-1]) if loc else ""


def _table_of(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    info = model.model_fields.get(field)
    if info is None:
        return None
    options = (info.annotation, *getattr(info.annotation, "__args__", ()))
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _shown(complaint: Mapping[str, Any]) -> object:
    return None if complaint["type"] == "missing" else complaint["input"]


def _allowed(kind: str, context: Mapping[str, Any]) -> str:
    """The allowed range in words."""
    if kind in _RANGES:
        return _RANGES[kind].format_map(context)
    return _TYPES.get(kind.split("_", maxsplit=1)[0], "of another kind")
