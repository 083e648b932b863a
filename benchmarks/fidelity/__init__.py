"""How the plant compares with real measurements: one module a section, each with `run`.

`run(data_dir: Path) -> list[Row]` reads the measurements, asks the plant, and says how far apart
they are. `python -m benchmarks.fidelity` runs every module of this folder.
"""

from __future__ import annotations

import csv
import gzip
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voltana.errors import ConfigError

QUOTED = Path(__file__).with_name("quoted.toml")
KNOWN = Path(__file__).with_name("known.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison.

    Attributes:
        section: What is compared.
        what: Which part of it, and how the distance is measured.
        measured: The figure.
        low: Smallest figure that meets the target; None where there is none.
        high: Largest figure that meets the target; None where there is none.
        unit: Unit of all three.
        rows: How many measurements stand behind it.
    """

    section: str
    what: str
    measured: float
    low: float | None = None
    high: float | None = None
    unit: str = "%"
    rows: int

    @property
    def meets(self) -> bool:
        """Whether the target is met; a row without one always does."""
        if math.isnan(self.measured):
            return False
        above = self.low is None or self.measured >= self.low
        return above and (self.high is None or self.measured <= self.high)

    @property
    def target(self) -> str:
        """The target in words; empty where there is none."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g}-{self.high:g} {self.unit}"
        if self.high is not None:
            return f"<= {self.high:g} {self.unit}"
        return f">= {self.low:g} {self.unit}" if self.low is not None else ""


def known_misses() -> dict[tuple[str, str], str]:
    """Why each target that the plant is known to miss is missed, by section and row.

    Raises:
        ConfigError: If the file cannot be read, or an entry lacks a text.
    """
    misses = _read_toml(KNOWN).get("miss", [])
    keys = ("section", "what", "why")
    for miss in misses if isinstance(misses, list) else [misses]:
        if not isinstance(miss, dict) or not all(isinstance(miss.get(key), str) for key in keys):
            raise ConfigError(
                f"{KNOWN.name}: miss = {miss!r:.80} is not allowed: must be tables [[miss]] with "
                f"the texts {', '.join(keys)}. Copy section and what from the table."
            )
    return {(miss["section"], miss["what"]): miss["why"] for miss in misses}


def verdicts(rows: list[Row], known: dict[tuple[str, str], str]) -> tuple[list[str], list[str]]:
    """What is to be said of the rows that miss their targets, and of what is known of them.

    Args:
        rows: Everything that was measured, of all sections.
        known: Why each known miss is missed, by section and row (:func:`known_misses`).

    Returns:
        Remarks on misses that are known, and complaints: misses that are not, entries of the known
        ones that are met again, and entries that name no row, as a mistyped one would.
    """
    remarks, complaints = [], []
    for row in rows:
        why = known.get((row.section, row.what))
        text = f"{row.section}: {row.what}: {row.measured:.3g} {row.unit}, target {row.target}"
        if not row.meets and why:
            remarks.append(f"missed, as is known ({why}): {text}")
        elif not row.meets:
            complaints.append(f"missed: {text}")
        elif why:
            complaints.append(f"met again: {text}. Take it out of {KNOWN.name}.")
    measured = {(row.section, row.what) for row in rows}
    complaints += [
        f"{KNOWN.name} names no row: section {section!r}, what {what!r}. Copy both from the table."
        for section, what in known
        if (section, what) not in measured
    ]
    return remarks, complaints


def quotations() -> dict[str, dict[str, Any]]:
    """Measurements that are known only as they were quoted, by name (``quoted.toml``).

    Raises:
        ConfigError: If the file cannot be read.
    """
    return _read_toml(QUOTED)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path.name} cannot be read: {error}. Restore it from the repository."
        ) from None


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, gzipped or not."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    return list(csv.DictReader(content.decode("utf-8").splitlines()))
