"""The servers' API keys: from a file, the environment or the configuration; never logged.

SGLang knows two. ``--api-key`` guards everything but health and metrics; ``--admin-api-key`` guards
what changes a server for everybody, of which voltana needs ``/abort_request`` and ``/flush_cache``,
and where it is set the other key does not open those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.serving.router.http_client import bearer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from voltana.serving.router.settings import RouterTable

API_KEY_VARIABLE = "VOLTANA_SGLANG_API_KEY"
ADMIN_API_KEY_VARIABLE = "VOLTANA_SGLANG_ADMIN_API_KEY"

REFUSED = frozenset({401, 403})
"""What SGLang answers to a wrong key."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of all servers.

    Attributes:
        api: What they were started with as ``--api-key``; None for none.
        admin: Likewise ``--admin-api-key``.
    """

    api: str | None = field(default=None, repr=False)
    admin: str | None = field(default=None, repr=False)

    def usual(self) -> dict[str, str]:
        """Headers of a question."""
        return bearer(self.api)

    def for_admin(self) -> dict[str, str]:
        """Headers of what changes a server."""
        return bearer(self.admin or self.api)


def find_keys(settings: RouterTable, environment: Mapping[str, str]) -> Keys:
    """The keys of a table, of the files that it names, or else of the environment.

    Args:
        settings: The table ``[router]`` (or ``[steer]``); paths in it are absolute by now.
        environment: Variables of this process.

    Raises:
        ConfigError: If a file cannot be read or holds no key; its content is not shown.
    """
    return Keys(
        api=settings.api_key
        or _in_file("api_key_file", settings.api_key_file)
        or environment.get(API_KEY_VARIABLE)
        or None,
        admin=settings.admin_api_key
        or _in_file("admin_api_key_file", settings.admin_api_key_file)
        or environment.get(ADMIN_API_KEY_VARIABLE)
        or None,
    )


def _in_file(name: str, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise invalid(
            name, str(path), f"a file that can be read ({why})", "Check path and permissions."
        ) from None
    if not key.isprintable() or not key:
        raise invalid(name, str(path), "a file with one line, the key", "Write the key into it.")
    return key
