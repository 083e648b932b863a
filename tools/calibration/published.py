"""Fit what the published figure leaves open: ``python -m tools.calibration.published``.

Neither the lengths of the requests nor the SLO thresholds are published. This looks for the lengths
(mean and spread of prompts and outputs of each workload) by coordinate descent from those in
``benchmarks/fidelity/published.toml``, for each pair of thresholds; every step serves all points of
a panel again, so it takes tens of minutes. Prints the best; ``--write`` keeps the lengths. The
thresholds are the defaults of `voltana.config`.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from benchmarks.fidelity.published import (
    DATASETS,
    METRICS,
    POLICIES,
    PUBLISHED_SLO,
    SETUP,
    STATIC,
    energy_errors,
    fitted_lengths,
    knee,
    published_points,
    simulated_points,
)
from tools.calibration.data import DATA
from voltana.slo import Slo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.fidelity.published import Panels
    from voltana.plant.workload.lengths import LengthDistribution

STEPS = {"mean_tokens": 0.04, "log_std": 0.08}
"""Relative steps of the search, by free moment."""

KNEE_PENALTY = 0.5
"""What a rate step between two knees weighs, in percent of energy."""

MISS_PENALTY = 10.0
"""What each rate step beyond the first weighs: the target allows one."""


def main() -> None:
    """Search, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the lengths that were found")
    parser.add_argument("--ttft-ms", type=float, nargs="+", default=[1e3 * PUBLISHED_SLO.ttft_s])
    parser.add_argument("--itl-ms", type=float, nargs="+", default=[1e3 * PUBLISHED_SLO.itl_s])
    arguments = parser.parse_args()
    console = Console()
    published = published_points(DATA)
    for ttft_ms in arguments.ttft_ms:
        for itl_ms in arguments.itl_ms:
            slo = Slo(ttft_s=ttft_ms / 1e3, itl_s=itl_ms / 1e3)
            for dataset in DATASETS:
                lengths, cost = descend(published, dataset, fitted_lengths()[dataset], slo)
                console.print(f"TTFT {ttft_ms:g} ms, ITL {itl_ms:g} ms, {dataset}: {cost:.2f}")
                console.print(lengths)
                if arguments.write:
                    write(dataset, lengths)


def descend(
    published: Panels, dataset: str, start: LengthDistribution, slo: Slo
) -> tuple[LengthDistribution, float]:
    """Coordinate descent over the free moments; ends where no step helps."""
    best, best_cost = start, panel_cost(published, dataset, start, slo)
    improved = True
    while improved:
        improved = False
        for candidate in neighbours(best):
            cost = panel_cost(published, dataset, candidate, slo)
            if cost < best_cost:
                best, best_cost, improved = candidate, cost, True
    return best, best_cost


def neighbours(lengths: LengthDistribution) -> Iterator[LengthDistribution]:
    """One step either way along each free moment."""
    for side in ("prompt", "output"):
        marginal = getattr(lengths, side)
        for moment, step in STEPS.items():
            for factor in (1 + step, 1 / (1 + step)):
                moved = replace(marginal, **{moment: getattr(marginal, moment) * factor})
                yield replace(lengths, **{side: moved})


def panel_cost(published: Panels, dataset: str, lengths: LengthDistribution, slo: Slo) -> float:
    """Mean absolute error of the static policies' energy in percent, plus penalties for knees."""
    simulated = simulated_points(
        published, {dataset: lengths}, POLICIES, panels=(dataset,), slo=slo
    )
    errors = [
        abs(error)
        for policy in STATIC
        for error in energy_errors(published[dataset, policy], simulated[dataset, policy])
    ]
    steps = [
        abs(knee(simulated[dataset, policy], metric) - knee(published[dataset, policy], metric))
        for policy in POLICIES
        for metric in METRICS
    ]
    beyond = sum(max(0, step - 1) for step in steps)
    return float(100 * np.mean(errors) + KNEE_PENALTY * sum(steps) + MISS_PENALTY * beyond)


def write(dataset: str, lengths: LengthDistribution) -> None:
    """Put the moments into the setup file, and leave the rest of it as it is."""
    text = SETUP.read_text(encoding="utf-8")
    head, section, tail = re.split(rf"(\[{dataset}\]\n(?:\w.*\n)+)", text, maxsplit=1)
    for side in ("prompt", "output"):
        marginal = getattr(lengths, side)
        for moment in STEPS:
            section = re.sub(
                rf"(?m)(^{side} = .*{moment} = )[\d.]+",
                rf"\g<1>{getattr(marginal, moment):.4g}",
                section,
            )
    SETUP.write_text(head + section + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
