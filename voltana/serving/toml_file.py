"""Reads a configuration file, whatever is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.errors import ConfigError
from voltana.users_file import load_toml, open_file

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 1 << 20


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file.

    Raises:
        ConfigError: If it cannot be read, or is no TOML.
    """
    try:
        with open_file(path) as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"configuration {path} cannot be read: {error.strerror}. Check the path."
        ) from None
    if len(raw) > MOST_BYTES:
        raise ConfigError(
            f"configuration {path} is too long: must have at most {MOST_BYTES} bytes. Check the "
            "path."
        )
    try:
        return load_toml(raw.decode("utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"configuration {path} is not TOML: {error}. Correct it.") from None
