"""What was published: savings as facts, and the figure's points where they are at hand."""

from __future__ import annotations

import csv
import io
import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from voltana.errors import ConfigError
from voltana.users_file import read_number, read_text

if TYPE_CHECKING:
    from pathlib import Path

SYSTEM = "voltana-v0.1"
"""Our name of the published system."""

_POLICIES = {"f1410": "static-max", "f1005": "static-low", "voltana": SYSTEM}
_COLUMNS = {
    "energy_j": ("energy_j", 1.0),
    "ttft_attainment": ("ttft_attainment_pct", 0.01),
    "itl_attainment": ("itl_attainment_pct", 0.01),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPoint:
    """One marker of the published figure.

    Attributes:
        model: Our profile's name.
        workload: Ours.
        rate_rps: Requests a second.
        policy: Our name of it.
        figures: ``energy_j``, ``ttft_attainment`` and ``itl_attainment`` where they can be read.
    """

    model: str
    workload: str
    rate_rps: float
    policy: str
    figures: dict[str, float]


def published_savings() -> dict[tuple[str, str, float], float]:
    """Saved shares of energy by model, workload and rate."""
    text = resources.files(__package__).joinpath("published.toml").read_text(encoding="utf-8")
    return {
        (panel["model"], panel["workload"], float(rate_rps)): percent / 100
        for panel in tomllib.loads(text)["panel"]
        for rate_rps, percent in zip(panel["rates_rps"], panel["saved_percent"], strict=True)
    }


def read_points(folder: Path) -> list[PublishedPoint]:
    """The points of the published figure in a folder of its panels as CSV.

    Raises:
        ConfigError: If a file there is something else.
    """
    points = []
    found = sorted(folder.glob("*.csv"))
    if not found:
        raise ConfigError(
            f"{str(folder)!r} holds no CSV with points of the published figure. Name a folder that "
            "does, or leave --published out."
        )
    for path in found:
        try:
            rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
        except (OSError, ValueError, csv.Error) as error:
            raise _no_points(path, str(getattr(error, "strerror", None) or error)) from None
        if not rows:
            raise _no_points(path, "it has no row below its header")
        for number, row in enumerate(rows, start=1):
            try:
                points.append(_point(row))
            except KeyError as error:
                raise _no_points(path, f"row {number} has no known {error}") from None
            except (AttributeError, TypeError):  # as of a cell that is not there
                raise _no_points(path, f"row {number} is shorter than its header") from None
            except ValueError as error:
                raise _no_points(path, f"row {number}: {error}") from None
    return points


def _no_points(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"{str(path)!r} holds no points of the published figure: {reason}. Name a folder of CSV "
        "with the columns model, dataset, rps, policy, energy_j, ttft_attainment_pct and "
        "itl_attainment_pct."
    )


def _point(row: dict[str, str]) -> PublishedPoint:
    read = {name: (row[column], factor) for name, (column, factor) in _COLUMNS.items()}
    return PublishedPoint(
        model=row["model"].lower(),
        workload=row["dataset"].lower(),
        rate_rps=_finite(row["rps"]),
        policy=_POLICIES[row["policy"]],
        figures={name: _finite(text) * factor for name, (text, factor) in read.items() if text},
    )


def _finite(text: str) -> float:
    """A number; of another no figure can be drawn, which is found out after hours of simulation."""
    number = read_number(text)
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is no finite number")
    return number
