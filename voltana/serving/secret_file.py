"""Secrets of one line: from a file that others cannot read or change, or from the environment."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from voltana.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LEAST = 16
"""Characters of a secret; a shorter one can be guessed."""

MOST_BYTES = 4096


def read_secret(
    field: str, path: Path | None, environment: Mapping[str, str], variable: str
) -> str | None:
    """The secret of a file, or else of a variable; None where neither is there.

    Args:
        field: Setting that names the file.
        path: The file; None for none.
        environment: Variables of this process.
        variable: That which may hold the secret.

    Raises:
        ConfigError: If it cannot be read, is open to others, or is no secret; it is not shown.
    """
    if path is not None:
        return secret_in(field, path)
    value = environment.get(variable)
    return _checked(variable, "(not shown)", value.strip()) if value else None


def secret_in(field: str, path: Path) -> str:
    """The secret in a file.

    Raises:
        ConfigError: As `read_secret`.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise invalid(
            field, str(path), f"a file that can be read ({error.strerror})", "Check the path."
        ) from None
    try:
        _check_guarded(field, path, os.fstat(handle))
        raw = os.read(handle, MOST_BYTES + 1)
    finally:
        os.close(handle)
    return _checked(field, str(path), raw.decode(errors="replace").strip())


def _check_guarded(field: str, path: Path, found: os.stat_result) -> None:
    """Check the file that was opened, whatever way led to it (Kubernetes mounts links)."""
    if not stat.S_ISREG(found.st_mode):
        raise invalid(field, str(path), "a file", "Name one that holds one line.")
    if found.st_uid not in {os.geteuid(), 0} or stat.S_IMODE(found.st_mode) & 0o026:
        raise invalid(
            field,
            str(path),
            "a file of this user or of root that others can neither read nor change",
            "chmod 600 it.",
        )


def _checked(field: str, shown: str, secret: str) -> str:
    if len(secret) < LEAST or len(secret) > MOST_BYTES or not secret.isprintable():
        raise invalid(
            field,
            shown,
            f"one line of {LEAST} to {MOST_BYTES} characters",
            "Make one with: openssl rand -hex 32",
        )
    return secret
