"""How much the simulator's own figures differ from seed to seed: noise and routing on one trace."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.compare import compare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.evaluation.scenario import Scenario

SEEDS = 6
"""Simulations of each policy beside the one of the scenario's own seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Standard deviations over seeds.

    Attributes:
        saved: Of the share of static-max's energy that was saved.
        ttft: Of the TTFT attainment.
        itl: Of the ITL attainment.
    """

    saved: float
    ttft: float
    itl: float


def spread_of(scenario: Scenario, seeds: int = SEEDS) -> Mapping[str, Spread]:
    """The spread of every policy, over the seeds that follow the scenario's own.

    Args:
        scenario: Its trace stays as it is.
        seeds: How many of them; at least 2.
    """
    first = scenario.file.seed + 1
    figures: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(first, first + seeds):
        file = scenario.file.model_copy(update={"seed": seed})
        for run in compare(dataclasses.replace(scenario, file=file)).runs:
            made = run.result
            figures.setdefault(made.policy, []).append(
                (made.energy_saved_vs_static_max, made.ttft_attainment, made.itl_attainment)
            )
    spreads = {policy: np.std(rows, axis=0, ddof=1) for policy, rows in figures.items()}
    return {
        policy: Spread(saved=float(saved), ttft=float(ttft), itl=float(itl))
        for policy, (saved, ttft, itl) in spreads.items()
    }
