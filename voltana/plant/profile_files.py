"""Profiles of boards and models as files: those that ship with the package, and a user's own."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from voltana.errors import ProfileError, unknown_name
from voltana.users_file import load_toml, read_text

if TYPE_CHECKING:
    from voltana.plant.coefficients import Section


def names(kind: str) -> list[str]:
    """Names of the shipped profiles of a kind."""
    folder = files("voltana.plant") / "data" / _FOLDERS[kind]
    return sorted(
        item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")
    )


MOST_BYTES = 1 << 20
"""No profile of a user is longer."""

_FOLDERS = {"hardware": "hardware", "model": "models"}


def read_profile(kind: str, name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """Read the TOML of a shipped profile, or of a file; returns the table and where it is from.

    Raises:
        UnknownNameError: If there is no such profile.
        ProfileError: If the file is not TOML.
    """
    text, content = str(name_or_path), profile_text(name_or_path, kind)
    try:
        return load_toml(content), text
    except ValueError as error:
        raise ProfileError(
            f"{kind} profile {text} is not TOML: {error}. Correct the file."
        ) from None


def profile_text(name_or_path: str | Path, kind: str = "hardware") -> str:
    """The TOML text of a shipped profile, or of a file.

    Raises:
        UnknownNameError: If there is no such profile.
        ProfileError: If the file cannot be read, or is no text.
    """
    text = str(name_or_path)
    known = names(kind)
    if text in known:
        item = files("voltana.plant") / "data" / _FOLDERS[kind] / f"{text}.toml"
        return item.read_text(encoding="utf-8")
    path = Path(text)
    if path.suffix == ".toml" and path.is_file():
        try:
            return read_text(path, MOST_BYTES)
        except (OSError, ValueError) as error:
            raise ProfileError(
                f"{kind} profile {text} cannot be read: {error}. Name a TOML file in UTF-8."
            ) from None
    raise unknown_name(kind, text, known)


_SectionT = TypeVar("_SectionT", bound="Section")


def parse(kind: type[_SectionT], table: dict[str, Any], origin: str) -> _SectionT:
    """Build a profile from a table.

    Raises:
        ProfileError: If keys are missing, unknown or out of range; the text names the first one.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ProfileError(
            f"profile {origin}: {where}: {first['msg']}. Correct that key in the profile."
        ) from None
