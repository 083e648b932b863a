"""Figures of a status that may lack any of them: what is none shows as a dash."""

import math
from collections.abc import Mapping
from typing import Any

from rich.text import Text


def table_of(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table within a status; empty where there is none."""
    value = said.get(key)
    return value if isinstance(value, Mapping) else {}


def value_of(said: Mapping[str, Any], key: str) -> float | None:
    """A finite number; None where there is none."""
    value = said.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def share(said: Mapping[str, Any], key: str) -> Text:
    """A share in percent."""
    value = value_of(said, key)
    return Text("-") if value is None else Text(f"{100 * value:.1f} %")


def number(said: Mapping[str, Any], key: str, form: str = ".0f") -> Text:
    """A number."""
    value = value_of(said, key)
    return Text("-") if value is None else Text(format(value, form))
