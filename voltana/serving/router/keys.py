"""The servers' API keys: from a file, the environment or the configuration; never logged.

Engines know up to two: one that guards everything, and one of an administrator, for what changes a
server for everybody (aborts and flushes, of which the router needs the former). Where that is set,
the other does not open those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.serving.router.wire import bearer
from voltana.users_file import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from voltana.serving.router.settings import RouterTable

MOST_BYTES = 1 << 16
"""No file with a key is longer."""

REFUSED = frozenset({401, 403})
"""What servers answer to a wrong key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyNames:
    """What the keys are called, for reading and for explaining them.

    Attributes:
        api_variable: Environment variable of the usual key.
        admin_variable: Likewise of the administrator's.
        api_flag: By which a server is told the usual key.
        admin_flag: Likewise the administrator's.
    """

    api_variable: str = "VOLTANA_API_KEY"
    admin_variable: str = "VOLTANA_ADMIN_API_KEY"
    api_flag: str = "--api-key"
    admin_flag: str = "--admin-api-key"

    def remedy(self, *, admin: bool = False) -> str:
        """What to do where a server refuses a key, the usual one or the administrator's."""
        variable, flag, field_name = self.api_variable, self.api_flag, "api_key_file"
        if admin:
            variable, flag, field_name = self.admin_variable, self.admin_flag, "admin_api_key_file"
        return f"Set {variable} or router.{field_name} to its {flag}"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of all servers.

    Attributes:
        api: The usual one; None for none.
        admin: The administrator's; None for none.
        names: What they are called.
    """

    api: str | None = field(default=None, repr=False)
    admin: str | None = field(default=None, repr=False)
    names: KeyNames = field(default_factory=KeyNames, compare=False)

    def usual(self) -> dict[str, str]:
        """Headers of a question."""
        return bearer(self.api)

    def for_admin(self) -> dict[str, str]:
        """Headers of what changes a server."""
        return bearer(self.admin or self.api)


def find_keys(
    settings: RouterTable, environment: Mapping[str, str], names: KeyNames | None = None
) -> Keys:
    """The keys of a table, of the files that it names, or else of the environment.

    Args:
        settings: The table ``[router]``, or one like it; paths in it are absolute by now.
        environment: Variables of this process.
        names: What the engine calls its keys.

    Raises:
        ConfigError: If a file cannot be read or holds no key; its content is not shown.
    """
    names = names or KeyNames()
    return Keys(
        names=names,
        api=settings.api_key
        or _in_file("api_key_file", settings.api_key_file)
        or environment.get(names.api_variable)
        or None,
        admin=settings.admin_api_key
        or _in_file("admin_api_key_file", settings.admin_api_key_file)
        or environment.get(names.admin_variable)
        or None,
    )


def _in_file(name: str, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        key = read_text(path, MOST_BYTES).strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise invalid(
            name, str(path), f"a file that can be read ({why})", "Check path and permissions."
        ) from None
    if not key.isprintable() or not key:
        raise invalid(name, str(path), "a file with one line, the key", "Write the key into it.")
    return key
