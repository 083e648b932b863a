"""Puts fitted coefficients into the TOML of a hardware profile, and leaves the rest as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from voltana import plant

if TYPE_CHECKING:
    from tools.calibration.fitted import Fitted

PROFILES = Path(plant.__file__).parent / "data" / "hardware"


def write(fitted: Fitted, derived: tuple[str, ...] = ()) -> None:
    """Update the section of the profile, and of those that are derived from it.

    Raises:
        ValueError: If a profile lacks the section or a key; nothing is written to that profile.
    """
    for name in (fitted.hardware, *derived):
        path = PROFILES / f"{name}.toml"
        text = path.read_text(encoding="utf-8")
        for key, value in fitted.values.items():
            text = _set(text, fitted.section, key, f"{value:.4g}")
        valid = fitted.valid
        if name != fitted.hardware:
            valid = f"inferred from {fitted.hardware}, whose chip it has; there: {valid}"
        words = {"source": fitted.source, "residual": fitted.residual, "valid": valid}
        for key, words_of_key in words.items():
            text = _set(text, f"{fitted.section}.provenance", key, f'"{words_of_key}"')
        path.write_text(text, encoding="utf-8")


def _set(text: str, section: str, key: str, value: str) -> str:
    pattern = rf"(^\[{re.escape(section)}\]\n(?:[^\[\n].*\n)*?{key} = )[^\n]*"
    found, count = re.subn(pattern, lambda match: match[1] + value, text, count=1, flags=re.M)
    if not count:
        raise ValueError(f"the profile has no {key} in [{section}]; add it, then fit again")
    return found
