"""Turns pydantic's complaints into the one-line errors of this library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from voltana.errors import VoltanaError, invalid, unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError


_RANGES = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "missing": "given",
    "too_short": "at least one",
    "value_error": "a number",
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
    remedy = f"It is {description}." if description else "See docs/simulate.md."
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
