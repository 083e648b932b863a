"""The token of the administration: one secret of this user, for routers, agents and `voltana top`.

It is named in the configuration, given in the environment, or made once and kept in the user's
state folder, where no other user can read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from voltana.errors import invalid
from voltana.serving.secret_file import read_secret, secret_in

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "VOLTANA_ADMIN_TOKEN"
"""Environment variable that holds the token where no file is named."""

NAME = "admin.token"


class Token:
    """A token that can be compared, and is not shown.

    Args:
        secret: Its text.
        where: Where a user finds it, in words.
    """

    __slots__ = ("_digest", "_secret", "where")

    def __init__(self, secret: str, where: str) -> None:
        self._secret = secret
        self._digest = _digest(secret.encode())
        self.where = where

    def opens(self, given: str) -> bool:
        """Whether a text is the token; takes as long whatever it is."""
        return hmac.compare_digest(_digest(given.encode(errors="replace")), self._digest)

    def header(self) -> dict[str, str]:
        """The header by which a client shows it."""
        return {"Authorization": f"Bearer {self._secret}"}


def find_token(path: Path | None, environment: Mapping[str, str], *, field: str) -> Token | None:
    """The token of a file, of the environment, or of this user, made where there is none yet.

    Args:
        path: The file that the configuration names; None for none.
        environment: Variables of this process.
        field: Setting that names the file.

    Returns:
        The token; None where none is given and none can be kept (a home that cannot be written to),
        which the log says: what needs it is then refused, and serving goes on.

    Raises:
        ConfigError: If it cannot be read, or others can read or change it.
    """
    secret = read_secret(field, path, environment, VARIABLE)
    if secret is not None:
        return Token(secret, f"{field} = {str(path)!r}" if path else f"the variable {VARIABLE}")
    own = default_path(environment)
    try:
        _make(own)
    except OSError as error:
        structlog.get_logger("voltana.admin").warning(
            "no token can be kept, so that the administration tells figures alone",
            path=str(own),
            error=error.strerror,
            remedy=f"name a file as {field}, or set {VARIABLE}",
        )
        return None
    return Token(secret_in(field, own), str(own))


def known_token(path: Path | None, environment: Mapping[str, str]) -> Token | None:
    """The token that there is, for who asks; None where there is none yet.

    Raises:
        ConfigError: As `find_token`.
    """
    secret = read_secret("token_file", path, environment, VARIABLE)
    own = default_path(environment)
    if secret is None and own.exists():
        secret = secret_in("token_file", own)
    return None if secret is None else Token(secret, "")


def default_path(environment: Mapping[str, str]) -> Path:
    """Where this user's token lies."""
    home = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "voltana-sglang" / NAME


def _make(path: Path) -> None:
    """Make a token unless there is one; of several that start at once, the first one's stands."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_folder(path.parent)
    if os.path.lexists(path):
        if path.is_symlink():
            raise invalid("admin token", str(path), "a file, no link", "Remove it.")
        return
    temporary = path.with_name(f"{NAME}.{secrets.token_hex(8)}")
    handle = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # whole, or not at all
    finally:
        temporary.unlink()


def _check_folder(folder: Path) -> None:
    found = folder.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise invalid(
            "admin token",
            str(folder),
            "a folder of this user that others cannot write to",
            "chmod 700 it, or name another file for the token.",
        )


def _digest(text: bytes) -> bytes:
    """Of equal length for all texts, so that a comparison tells nothing of theirs."""
    return hashlib.sha256(text).digest()
