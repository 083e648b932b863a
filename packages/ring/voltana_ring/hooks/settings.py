"""The few keys of the configuration file that the plugin needs.

The agent's reader validates the file, and names what is wrong in it; here only what is read is
looked at, with the standard library alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voltana_ring.paths import ALLOWED_NAME, INSTANCE_NAME, default_rings, default_state

STARTS = ("by-hand", "plugin")


class SettingsError(ValueError):
    """The file cannot be used; the text says why."""


@dataclass(frozen=True, kw_only=True)
class PluginSettings:
    """What the plugin goes by.

    Attributes:
        rings: Folder of the rings.
        state: Folder of the agent's log.
        starts_agent: Whether the plugin starts the agent.
        interpreter: Command that runs Python where agents live; empty takes the engine's own.
    """

    rings: Path
    state: Path
    starts_agent: bool
    interpreter: tuple[str, ...]


def read_settings(path: Path) -> PluginSettings:
    """Read the table ``[agent]``; relative folders are relative to the file.

    Raises:
        SettingsError: If the file cannot be read, or holds something else under one of these keys.
    """
    agent = _tables(path).get("agent", {})
    if not isinstance(agent, dict):
        raise SettingsError(f"{path}: agent = {agent!r} is not allowed: must be a table")
    start = agent.get("start", STARTS[0])
    if start not in STARTS:
        raise SettingsError(
            f"{path}: agent.start = {start!r} is not allowed: must be one of {STARTS}"
        )
    folder = path.resolve().parent
    return PluginSettings(
        rings=_folder(agent, "rings", folder) or default_rings(),
        state=_folder(agent, "state", folder) or default_state(),
        starts_agent=start == STARTS[1],
        interpreter=_command(agent),
    )


def check_name(instance: str) -> str:
    """The name of an instance, if files may be named after it.

    Raises:
        SettingsError: If not.
    """
    if not INSTANCE_NAME.fullmatch(instance):
        raise SettingsError(f"instance name {instance!r} is not allowed: must be {ALLOWED_NAME}")
    return instance


def _tables(path: Path) -> dict[str, Any]:
    try:
        import tomllib  # noqa: PLC0415  (below, too)
    except ImportError:  # Python 3.10
        try:
            import tomli as tomllib  # type: ignore[import-not-found, no-redef, unused-ignore]  # noqa: PLC0415
        except ImportError:
            raise SettingsError(
                f"{path} cannot be read: Python 3.10 has no tomllib, and tomli is not installed. "
                "Install tomli, or run the engine on Python 3.11 or later."
            ) from None
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # not there, not TOML, not UTF-8
        raise SettingsError(f"{path} cannot be read: {error}") from None


def _folder(agent: dict[str, Any], key: str, base: Path) -> Path | None:
    value = agent.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise SettingsError(f"agent.{key} = {value!r} is not allowed: must be a path")
    try:
        return base / Path(value).expanduser()
    except RuntimeError as error:  # ~ of a user who is not there, or has no home
        raise SettingsError(f"agent.{key} = {value!r} is not allowed: {error}") from None


def _command(agent: dict[str, Any]) -> tuple[str, ...]:
    value = agent.get("interpreter", ())
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(w, str) and w for w in words):
        raise SettingsError(
            f"agent.interpreter = {value!r} is not allowed: must be a Python, or a list of words: "
            "a command that runs one"
        )
    return tuple(words)
