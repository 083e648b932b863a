"""The published main result (Llama-3.1-8B on four A100): energy and attainment knees.

Static clocks and the published system's released behaviour serve the two published workloads, with
no KV transfer time (as in the published demonstration), until the last request is finished. What
was not published is fitted by `benchmarks.calibration.published`: one pair of SLO thresholds for
both panels (the defaults of `voltana.config`), and the lengths of each workload
(``published.toml``).
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fidelity import Row
from voltana.config import DEFAULT_ITL_MS, DEFAULT_TTFT_MS
from voltana.plant.cluster import ClusterSpec, EngineOptions
from voltana.plant.hardware import load_hardware
from voltana.plant.iteration import PlantModel
from voltana.plant.model import load_model
from voltana.plant.simulation import Simulation
from voltana.plant.workload import make_workload
from voltana.plant.workload.lengths import LengthDistribution, Lognormal
from voltana.policies.named import get_policy
from voltana.slo import Slo, attainment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from voltana.plant.record import RunRecord
    from voltana.plant.workload import Trace

DATASETS = ("ShareGPT", "LMSYS")
POLICIES = {"f1410": "static-max", "f1005": "static-low", "voltana": "voltana-v0.1"}
STATIC = ("f1410", "f1005")
METRICS = ("ttft", "itl")
DURATION_S = 120.0
KNEE = 0.90
PUBLISHED_SLO = Slo(ttft_s=DEFAULT_TTFT_MS / 1e3, itl_s=DEFAULT_ITL_MS / 1e3)
SETUP = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a panel: energy, and attainment by metric (nan where its marker is hidden)."""

    rate_rps: float
    energy_j: float
    ttft: float
    itl: float


Panels = dict[tuple[str, str], list[Point]]


def published_points(data_dir: Path) -> Panels:
    """The digitised figure, by dataset and policy, in the order of the rates."""
    panels: Panels = defaultdict(list)
    with (data_dir / "published-figure" / "llama-3.1-8b.csv").open() as file:
        for row in csv.DictReader(file):
            panels[row["dataset"], row["policy"]].append(
                Point(
                    rate_rps=float(row["rps"]),
                    energy_j=_number(row["energy_j"]),
                    ttft=_number(row["ttft_attainment_pct"]) / 100,
                    itl=_number(row["itl_attainment_pct"]) / 100,
                )
            )
    return dict(panels)


def fitted_lengths() -> dict[str, LengthDistribution]:
    """Lengths of each dataset's requests, as fitted."""
    setup = tomllib.loads(SETUP.read_text(encoding="utf-8"))
    return {
        dataset: LengthDistribution(
            prompt=Lognormal(**setup[dataset]["prompt"]),
            output=Lognormal(**setup[dataset]["output"]),
        )
        for dataset in DATASETS
    }


def serve(trace: Trace, policy: str, slo: Slo, *, seed: int = 0) -> RunRecord:
    """Serve a trace as published: two prefill and two decode A100 instances."""
    simulation = Simulation(_cluster(slo), get_policy(policy), trace, seed=seed, plant=_plant())
    simulation.run()
    return simulation.record()


def point(record: RunRecord, rate_rps: float, slo: Slo) -> Point:
    """Energy and attainment of a run."""
    kept = attainment(
        slo,
        ttft_s=record.ttft_s,
        mean_itl_s=record.mean_itl_s,
        itl_s=record.gap_s,
        itl_tokens=record.gap_tokens,
    )
    return Point(rate_rps=rate_rps, energy_j=record.energy_j(), ttft=kept.ttft, itl=kept.itl)


def simulated_points(
    published: Panels,
    lengths: Mapping[str, LengthDistribution],
    policies: Iterable[str],
    *,
    slo: Slo = PUBLISHED_SLO,
    seed: int = 0,
) -> Panels:
    """The published points of some policies, from the plant.

    Args:
        published: Says which rates.
        lengths: Lengths by dataset; a dataset that is not there is left out.
        policies: Which of `POLICIES`.
        slo: Thresholds.
        seed: Of arrivals, lengths and noise.
    """
    panels: Panels = {}
    for (dataset, policy), points in published.items():
        if policy not in policies or dataset not in lengths:
            continue
        panels[dataset, policy] = []
        for rate_rps in (p.rate_rps for p in points):
            trace = make_workload(lengths[dataset], rate_rps, DURATION_S, seed)
            record = serve(trace, POLICIES[policy], slo, seed=seed)
            panels[dataset, policy].append(point(record, rate_rps, slo))
    return panels


def knee(points: list[Point], metric: str) -> int:
    """Index of the first rate with an attainment below 90 %; the number of rates if there is none.

    A hidden marker lies behind one that is above the knee, so it counts as kept.
    """
    for index, reached in enumerate(points):
        if getattr(reached, metric) < KNEE:
            return index
    return len(points)


def energy_errors(published: list[Point], simulated: list[Point]) -> list[float]:
    """Relative errors of the energy, over the points that are visible."""
    return [
        ours.energy_j / theirs.energy_j - 1
        for theirs, ours in zip(published, simulated, strict=True)
        if math.isfinite(theirs.energy_j)
    ]


def run(data_dir: Path) -> list[Row]:
    """Energy error of the static policies, and the distance of every knee."""
    published = published_points(data_dir)
    simulated = simulated_points(published, fitted_lengths(), POLICIES)
    return [
        *(_energy_row(dataset, published, simulated) for dataset in DATASETS),
        *(
            _knee_row(dataset, policy, metric, published, simulated)
            for dataset, policy in published
            for metric in METRICS
        ),
    ]


def _energy_row(dataset: str, published: Panels, simulated: Panels) -> Row:
    errors = [
        abs(error)
        for policy in STATIC
        for error in energy_errors(published[dataset, policy], simulated[dataset, policy])
    ]
    return Row(
        section="published figure",
        what=f"{dataset}: energy of static 1410 and 1005 MHz, mean absolute error",
        measured=100 * sum(errors) / len(errors),
        high=5,
        rows=len(errors),
    )


def _knee_row(dataset: str, policy: str, metric: str, published: Panels, simulated: Panels) -> Row:
    points = published[dataset, policy]
    rates = [*(f"at {p.rate_rps:g}/s" for p in points), "at no rate"]
    theirs, ours = knee(points, metric), knee(simulated[dataset, policy], metric)
    return Row(
        section="published figure",
        what=f"{dataset}, {policy}: {metric.upper()} knee {rates[ours]}, published {rates[theirs]}",
        measured=abs(ours - theirs),
        high=1,
        unit="rate steps",
        rows=len(points),
    )


def _cluster(slo: Slo) -> ClusterSpec:
    setup = tomllib.loads(SETUP.read_text(encoding="utf-8"))
    return ClusterSpec(
        hardware=load_hardware("a100-sxm4-80gb"),
        model=load_model("llama-3.1-8b"),
        slo=slo,
        engine=EngineOptions(transfer=False, **setup["engine"]),
    )


@cache
def _plant() -> PlantModel:
    return PlantModel(load_hardware("a100-sxm4-80gb"), load_model("llama-3.1-8b"))


def _number(text: str) -> float:
    return float(text) if text else math.nan
