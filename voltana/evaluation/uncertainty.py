"""What a comparison's savings and attainments range over, given what the plant does not know.

Every alternative of the board (`voltana.plant.perturbed`) serves the same requests with the same
noise, so that the differences are those of the boards. The worst and the best of each figure are
reported; corners where several quantities are off at once are not run.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.evaluation.compare import compare
from voltana.plant.iteration import PlantModel
from voltana.plant.perturbed import NOMINAL, alternatives

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.evaluation.compare import Comparison
    from voltana.evaluation.metrics import Result
    from voltana.evaluation.scenario import Scenario
    from voltana.plant.hardware import HardwareProfile

FIGURES = ("energy_saved_vs_static_max", "ttft_attainment", "itl_attainment")
"""Fields of `Result` that ranges are given of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What one figure ranges over.

    Attributes:
        low: Smallest.
        nominal: With the profile as it is calibrated.
        high: Largest.
    """

    low: float
    nominal: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertain:
    """Ranges of all figures.

    Attributes:
        plants: What was moved in each alternative.
        ranges: By policy and by figure.
    """

    plants: tuple[str, ...]
    ranges: Mapping[str, Mapping[str, Range]]

    def to_dict(self) -> dict[str, object]:
        """As JSON has it: a figure that does not exist is null."""
        return {
            "plants": list(self.plants),
            "ranges": {
                policy: {figure: _finite(found) for figure, found in figures.items()}
                for policy, figures in self.ranges.items()
            },
        }


def uncertain(
    nominal: Comparison, progress: Callable[[str, float, int], None] | None = None
) -> Uncertain:
    """Run the scenario of a comparison again on every alternative of its board.

    Args:
        nominal: The comparison on the board as calibrated.
        progress: As for `compare`.
    """
    scenario = nominal.scenario
    boards = alternatives(scenario.cluster.hardware)
    results = {NOMINAL: _results(nominal)}
    for name, hardware in boards.items():
        if name != NOMINAL:
            moved = _on(scenario, hardware)
            results[name] = _results(compare(moved, progress=progress))
    policies = list(results[NOMINAL])
    return Uncertain(
        plants=tuple(results),
        ranges={
            policy: {
                figure: _range([getattr(found[policy], figure) for found in results.values()])
                for figure in FIGURES
            }
            for policy in policies
        },
    )


def _finite(found: Range) -> dict[str, float | None]:
    values = dataclasses.asdict(found).items()
    return {name: value if math.isfinite(value) else None for name, value in values}


def _on(scenario: Scenario, hardware: HardwareProfile) -> Scenario:
    cluster = dataclasses.replace(scenario.cluster, hardware=hardware)
    plant = PlantModel(cluster.hardware, cluster.model, cluster.tensor_parallel)
    return dataclasses.replace(scenario, cluster=cluster, plant=plant)


def _results(comparison: Comparison) -> dict[str, Result]:
    return {run.result.policy: run.result for run in comparison.runs}


def _range(values: list[float]) -> Range:
    """The first value is that of the nominal board; a board without the figure bounds nothing."""
    known = [value for value in values if math.isfinite(value)] or values[:1]
    return Range(low=min(known), nominal=values[0], high=max(known))
