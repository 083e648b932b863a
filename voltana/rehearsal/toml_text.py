"""Writes tables as TOML: a configuration that was read and changed goes to other processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def toml_text(tables: Mapping[str, Any]) -> str:
    """JSON values as TOML; None is left out, for TOML has no word for it."""
    return "".join(
        f"{_key(key)} = {_value(value)}\n" for key, value in tables.items() if value is not None
    )


def _value(value: Any) -> str:
    if isinstance(value, dict):
        inner = (f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    # JSON writes texts, numbers and truth values as TOML reads them.
    return json.dumps(value)


def _key(key: Any) -> str:
    return json.dumps(str(key))
