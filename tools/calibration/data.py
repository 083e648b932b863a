"""Reads the measurements that the plant is fitted to and compared with."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from voltana.values import FloatArray

DATA = Path(__file__).parents[3] / "shared" / "data"
"""Where the measurements lie: beside the project's folder."""


def rows(name: str, data_dir: Path = DATA) -> list[dict[str, str]]:
    """Rows of a CSV file, gzipped or not, below `data_dir`.

    Raises:
        FileNotFoundError: If the measurements are absent; the text says where they belong.
    """
    path = data_dir / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is absent. Put the measurements beside the project.")
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    return list(csv.DictReader(text.splitlines()))


def columns(table: list[dict[str, str]], *names: str) -> list[FloatArray]:
    """Columns of a table as arrays of floats; empty fields become nan."""
    return [np.array([float(row[name] or "nan") for row in table]) for name in names]
