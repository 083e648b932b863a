"""Reads a configuration file, whatever is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana import users_file
from voltana.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 1 << 20
"""What serves must not wait for a second until a file of megabytes is parsed."""


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file.

    Raises:
        ConfigError: If it cannot be read, is too long, or is no TOML.
    """
    try:
        return users_file.read_toml(path, MOST_BYTES)
    except OSError as error:
        raise ConfigError(
            f"configuration {path} cannot be read: {error.strerror}. Check the path."
        ) from None
    except ValueError as error:
        raise ConfigError(f"configuration {path} is not TOML: {error}. Correct it.") from None
