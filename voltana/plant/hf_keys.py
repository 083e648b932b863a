"""Reads single keys of a model configuration, with errors that name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.errors import ProfileError

if TYPE_CHECKING:
    from collections.abc import Mapping


_MOST = 100_000_000
_MOST_LAYERS = 10_000
"""Larger numbers are no architecture's, but typing errors."""

_MOST_SHOWN = 50
"""Characters of a value in an error."""


def read(text: Mapping[str, Any], *keys: str) -> Any:
    """The value of the first key that has one; None if none has."""
    return next((text[key] for key in keys if text.get(key) is not None), None)


def optional(text: Mapping[str, Any], *keys: str, least: int = 1) -> int | None:
    """A whole number, or None where no key gives one.

    Raises:
        ProfileError: If the value is none, or too small.
    """
    for key in keys:
        value = text.get(key)
        if value is None:
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        whole = isinstance(value, int) and not isinstance(value, bool)
        most = _MOST_LAYERS if "layer" in key else _MOST
        if not (whole and least <= value <= most):
            raise wrong(key, value, f"a whole number from {least} to {most}")
        return value
    return None


def need(text: Mapping[str, Any], *keys: str) -> int:
    """A whole number that must be there.

    Raises:
        ProfileError: If it is missing or of a wrong type or range.
    """
    value = optional(text, *keys)
    if value is None:
        others = f" (or {', '.join(keys[1:])})" if keys[1:] else ""
        raise ProfileError(
            f"config.json lacks {keys[0]!r}{others}. Give the configuration of a transformer "
            "language model, with that key."
        )
    return value


def flag(text: Mapping[str, Any], key: str) -> bool | None:
    """A truth value, or None where there is none.

    Raises:
        ProfileError: If it is something else.
    """
    value = text.get(key)
    if value is not None and not isinstance(value, bool):
        raise wrong(key, value, "true or false")
    return value


def table(text: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A nested object.

    Raises:
        ProfileError: If it is something else.
    """
    value = text.get(key)
    if not isinstance(value, dict):
        raise wrong(key, value, "an object")
    return value


def shown(value: object) -> str:
    """A value in an error, cut so that the error stays one line to read."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def wrong(key: str, value: object, allowed: str) -> ProfileError:
    """The error for a value of a wrong type or range."""
    return ProfileError(
        f"config.json: {key} = {shown(value)} is not allowed: must be {allowed}. Correct that key."
    )


def not_modelled(key: str, value: object, what: str) -> ProfileError:
    """The error for an architecture that the profile cannot describe."""
    return ProfileError(
        f"config.json: {key} = {shown(value)}: {what} not modelled. Choose another model, or write "
        "a model profile that stands for it."
    )
