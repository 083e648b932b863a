"""A hardware profile as the TOML text that `load_hardware` reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voltana.plant.hardware import HardwareProfile


def profile_toml(hardware: HardwareProfile) -> str:
    """The text of a profile file; numbers keep six digits, which no measurement has."""
    return "\n".join(_lines("", hardware.model_dump())).lstrip("\n") + "\n"


def _lines(path: str, table: dict[str, Any]) -> Iterator[str]:
    """The plain keys of a table, then the tables below it, each under its dotted header."""
    below = {key: value for key, value in table.items() if _is_table(value)}
    plain = {key: value for key, value in table.items() if key not in below and value is not None}
    if path and plain:
        yield f"\n[{path}]"
    for key, value in plain.items():
        yield f"{key} = {_value(value)}"
    for key, value in below.items():
        inner = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from _lines(inner, value)
            continue
        for row in value:
            yield f"\n[[{inner}]]"
            yield from (f"{name} = {_value(of_row)}" for name, of_row in row.items())


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list | tuple) and bool(value) and isinstance(value[0], dict)
    )


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return _list([_value(each) for each in value], texts=any(isinstance(v, str) for v in value))
    if isinstance(value, float):
        return f"{value:.6g}"
    # JSON writes texts and whole numbers as TOML reads them.
    return json.dumps(value, ensure_ascii=False)


def _list(values: list[str], *, texts: bool) -> str:
    if not texts:
        return f"[{', '.join(values)}]"
    return "\n".join(("[", *(f"    {value}," for value in values), "]"))
