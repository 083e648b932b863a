"""A path in a file that a user writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from voltana.errors import invalid


def _possible(path: Path, info: ValidationInfo) -> Path:
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise invalid(
            str(info.field_name),
            str(path),
            "a path that a file can have: no null character, no half of a character",
            "Check what wrote it.",
        )
    return path


UserPath = Annotated[Path, AfterValidator(_possible)]
"""A path that the system can be asked for; any other fails wherever it is first used."""
