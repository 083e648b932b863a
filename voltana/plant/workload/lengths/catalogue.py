"""The length distributions that ship with the package, by name.

Two data files hold them: `lengths_fitted.toml`, written by `tools/calibration/lengths.py`
from measured sets, and `lengths_moments.toml`, from published averages. Both name their sources.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from voltana.errors import unknown_name
from voltana.plant.workload.lengths.joint import LengthDistribution
from voltana.plant.workload.lengths.log_quantiles import LogQuantiles
from voltana.plant.workload.lengths.lognormal import Lognormal

if TYPE_CHECKING:
    from voltana.plant.workload.lengths.marginal import Marginal

_FILES = ("lengths_fitted.toml", "lengths_moments.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a length distribution comes from.

    Attributes:
        summary: One line for a listing.
        source: The data set or paper.
        licence: Its licence.
    """

    summary: str
    source: str
    licence: str


def length_names() -> list[str]:
    """Names of the length distributions that ship with the package."""
    return sorted(_entries())


def load_lengths(name: str) -> LengthDistribution:
    """The length distribution called `name`.

    Raises:
        UnknownNameError: If there is none; the text lists those that exist.
    """
    entry = _entry(name)
    return LengthDistribution(
        prompt=_marginal(entry["prompt"]),
        output=_marginal(entry["output"]),
        rank_correlation=entry["rank_correlation"],
    )


def load_provenance(name: str) -> Provenance:
    """Where the length distribution called `name` comes from.

    Raises:
        UnknownNameError: If there is none; the text lists those that exist.
    """
    entry = _entry(name)
    return Provenance(summary=entry["summary"], source=entry["source"], licence=entry["licence"])


def _entry(name: str) -> dict[str, Any]:
    entries = _entries()
    if name not in entries:
        raise unknown_name("workload", name, sorted(entries))
    return entries[name]


@cache
def _entries() -> dict[str, dict[str, Any]]:
    folder = resources.files("voltana.plant.workload").joinpath("data")
    entries: dict[str, dict[str, Any]] = {}
    for file in _FILES:
        entries.update(tomllib.loads(folder.joinpath(file).read_text("utf-8")))
    return entries


def _marginal(parameters: dict[str, Any]) -> Marginal:
    if parameters["family"] == "lognormal":
        return Lognormal(
            mean_tokens=parameters["mean_tokens"],
            log_std=parameters["log_std"],
            min_tokens=parameters["min_tokens"],
            max_tokens=parameters["max_tokens"],
        )
    return LogQuantiles(
        probability=tuple(parameters["probability"]), tokens_at=tuple(parameters["tokens_at"])
    )
