"""The files that a scenario names: its figures are kept under their content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.errors import ConfigError
from voltana.users_file import open_file

if TYPE_CHECKING:
    from collections.abc import Mapping


def digest_of(path: Path) -> str:
    """Digest of what a file holds.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        with open_file(path) as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)!r} cannot be read: {reason}. Check the path.") from None


def check_unchanged(digests: Mapping[str, str]) -> None:
    """Refuse figures of files that are others than those that the scenario was checked with.

    Args:
        digests: What they held then, by path.

    Raises:
        ConfigError: If one cannot be read any more, or holds something else.
    """
    for name, before in digests.items():
        if digest_of(Path(name)) != before:
            raise ConfigError(
                f"{name!r} has changed since the sweep began, so that nobody knows what these "
                "figures are of. Leave it as it is while a sweep runs, and give the same command "
                "again."
            )
