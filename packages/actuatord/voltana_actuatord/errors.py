"""The root of the error tree: what daemon, client and the library above them share.

Every error that a user can cause names the field, the value, the unit, the allowed range and the
remedy; `invalid` builds such a text so that all of them read alike.
"""

from __future__ import annotations


class VoltanaError(Exception):
    """Base class of every error that this library raises on purpose."""


class ConfigError(VoltanaError, ValueError):
    """A value given by the user is outside its allowed range."""


class UnknownNameError(ConfigError):
    """A name (policy, workload, hardware, ...) is not known; the text lists those that are."""


class MissingExtraError(VoltanaError, ImportError):
    """An optional dependency is absent; the text names the extra to install."""


class ActuatorError(VoltanaError):
    """A clock could not be read or set."""


def invalid(field: str, value: object, allowed: str, remedy: str) -> ConfigError:
    """Build the error for a value outside its range.

    Args:
        field: Name of the field as the user wrote it, with its unit.
        value: What was given.
        allowed: The allowed range or set, in words.
        remedy: What to do about it, as an imperative sentence.

    Returns:
        The error, to be raised by the caller.
    """
    try:
        shown = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        shown = "(a number of thousands of digits)"
    return ConfigError(f"{field} = {shown} is not allowed: must be {allowed}. {remedy}")


def unknown_name(kind: str, name: str, known: list[str]) -> UnknownNameError:
    """Build the error for a name that is not in a closed list.

    Args:
        kind: What the name stands for, such as ``policy``.
        name: What was given.
        known: The names that exist.

    Returns:
        The error, to be raised by the caller.
    """
    import difflib  # noqa: PLC0415  (only on the error path)

    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UnknownNameError(f"unknown {kind} {name!r}.{hint} Choose one of: {', '.join(known)}.")
