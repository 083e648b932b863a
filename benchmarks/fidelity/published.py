"""The published main result on A100s: energy, what it saves, and attainment knees.

Static clocks and the published system's released behaviour serve the two published workloads, with
no KV transfer time (as in the published demonstration), until the last request is finished. What
was not published is fitted, so no panel here is held out: one pair of SLO thresholds (the defaults
of `voltana.config`), and the lengths of each workload, shared by all models (``published.toml``
says how they were chosen). The thresholds of Qwen3-32B and Ministral-3B are not known, so
attainments of Qwen3-32B are not compared.
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

from benchmarks.fidelity import Row, quotations
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

    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.record import RunRecord
    from voltana.plant.workload import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel of the figure: which model serves which workload.

    Attributes:
        dataset: The workload.
        file: Where its points are, in the folder ``published-figure``.
        model: Profile of the model.
        tensor_parallel: Boards of an instance.
    """

    dataset: str
    file: str = "llama-3.1-8b.csv"
    model: str = "llama-3.1-8b"
    tensor_parallel: int = 1


QWEN = "Qwen3-32B LMSYS"
PANELS = {
    "ShareGPT": Panel(dataset="ShareGPT"),
    "LMSYS": Panel(dataset="LMSYS"),
    QWEN: Panel(dataset="LMSYS", file="qwen3-32b-lmsys.csv", model="qwen3-32b", tensor_parallel=2),
}
MINISTRAL = Panel(dataset="ShareGPT", file="", model="ministral-3b")
DATASETS = ("ShareGPT", "LMSYS")
"""Panels of Llama-3.1-8B, to which the lengths are fitted."""
POLICIES = {"f1410": "static-max", "f1005": "static-low", "voltana": "voltana-v0.1"}
STATIC = ("f1410", "f1005")
METRICS = ("ttft", "itl")
DURATION_S = 120.0
KNEE = 0.90
COLLAPSED = 0.5
SECTION = "published figure"
BOARD = "a100-sxm4-80gb"
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
    """The digitised figure, by panel and policy, in the order of the rates."""
    panels: Panels = defaultdict(list)
    for name, panel in PANELS.items():
        with (data_dir / "published-figure" / panel.file).open() as file:
            for row in csv.DictReader(file):
                if row["dataset"] == panel.dataset:
                    panels[name, row["policy"]].append(_published(row))
    return dict(panels)


def _published(row: dict[str, str]) -> Point:
    return Point(
        rate_rps=float(row["rps"]),
        energy_j=_number(row["energy_j"]),
        ttft=_number(row["ttft_attainment_pct"]) / 100,
        itl=_number(row["itl_attainment_pct"]) / 100,
    )


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


def serve(
    trace: Trace,
    panel: Panel,
    policy: str,
    slo: Slo,
    *,
    seed: int = 0,
    plant: PlantModel | None = None,
) -> RunRecord:
    """Serve a trace as published: two prefill and two decode instances of A100s.

    Args:
        trace: The requests.
        panel: Which model serves them.
        policy: Name of the policy.
        slo: Thresholds.
        seed: Of noise.
        plant: The instances, where they are others than the profile says.
    """
    plant = plant or plant_of(panel)
    cluster = _cluster(panel, slo, plant.hardware)
    simulation = Simulation(cluster, get_policy(policy), trace, seed=seed, plant=plant)
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
    panels: Iterable[str] = tuple(PANELS),
    slo: Slo = PUBLISHED_SLO,
    seed: int = 0,
    hardware: HardwareProfile | None = None,
) -> Panels:
    """The published points of some panels and policies, from the plant.

    Args:
        published: Says which rates.
        lengths: Lengths by dataset.
        policies: Which of `POLICIES`.
        panels: Which of `PANELS`.
        slo: Thresholds.
        seed: Of arrivals, lengths and noise.
        hardware: The boards, where they are others than the profile says.
    """
    simulated: Panels = {}
    wanted = [(name, policy) for name in panels for policy in policies]
    for name, policy in wanted:
        rates = [p.rate_rps for p in published[name, policy]]
        panel = PANELS[name]
        simulated[name, policy] = run_panel(
            panel, policy, rates, lengths[panel.dataset], slo=slo, seed=seed, hardware=hardware
        )
    return simulated


def run_panel(
    panel: Panel,
    policy: str,
    rates: Iterable[float],
    lengths: LengthDistribution,
    *,
    slo: Slo = PUBLISHED_SLO,
    seed: int = 0,
    hardware: HardwareProfile | None = None,
) -> list[Point]:
    """One curve of a panel: a policy at several rates, on the profile's boards or on others."""
    plant = plant_of(panel) if hardware is None else _plant_on(panel, hardware)
    points = []
    for rate_rps in rates:
        trace = make_workload(lengths, rate_rps, DURATION_S, seed)
        record = serve(trace, panel, POLICIES[policy], slo, seed=seed, plant=plant)
        points.append(point(record, rate_rps, slo))
    return points


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


def savings(panels: Panels, name: str, policy: str) -> dict[float, float]:
    """Share of static 1410 MHz's energy that a policy saves, by rate, where both are visible."""
    return {
        most.rate_rps: 1 - least.energy_j / most.energy_j
        for most, least in zip(panels[name, "f1410"], panels[name, policy], strict=True)
        if math.isfinite(most.energy_j) and math.isfinite(least.energy_j)
    }


def saving_error(published: Panels, simulated: Panels, name: str, policy: str) -> float:
    """Simulated minus published saving, averaged over the visible rates, in points."""
    theirs, ours = (savings(panels, name, policy) for panels in (published, simulated))
    return 100 * sum(ours[rate] - saved for rate, saved in theirs.items()) / len(theirs)


def run(data_dir: Path) -> list[Row]:
    """Energy and savings of every panel, the distance of every knee, and Ministral-3B."""
    published = published_points(data_dir)
    simulated = simulated_points(published, fitted_lengths(), POLICIES)
    return [
        *(_energy_row(name, published, simulated) for name in PANELS),
        *_saving_rows(published, simulated),
        *(
            _knee_row(name, policy, metric, published, simulated)
            for name in DATASETS
            for policy in POLICIES
            for metric in METRICS
        ),
        *_ministral_rows(),
    ]


def _energy_row(name: str, published: Panels, simulated: Panels) -> Row:
    errors = [
        error
        for policy in STATIC
        for error in energy_errors(published[name, policy], simulated[name, policy])
    ]
    return Row(
        section=SECTION,
        what=f"{name}: energy of static 1410 and 1005 MHz, mean absolute error",
        measured=100 * sum(map(abs, errors)) / len(errors),
        high=5,
        rows=len(errors),
    )


def _saving_rows(published: Panels, simulated: Panels) -> list[Row]:
    """How far the savings are off; above 0 the plant saves more than was published."""
    rows = []
    for policy, words, allowed in (
        ("f1005", "static 1005 against 1410 MHz", 2.0),
        ("voltana", "voltana-v0.1 against static 1410 MHz", 4.0),
    ):
        errors = {name: saving_error(published, simulated, name, policy) for name in PANELS}
        rows += [
            Row(
                section=SECTION,
                what=f"{name}: saving of {words}, simulated minus published",
                measured=error,
                low=-allowed,
                high=allowed,
                unit="points",
                rows=len(savings(published, name, policy)),
            )
            for name, error in errors.items()
        ]
        if policy == "f1005":
            rows.append(
                Row(
                    section=SECTION,
                    what=f"saving of {words}: mean over the panels",
                    measured=sum(errors.values()) / len(errors),
                    low=-1,
                    high=1,
                    unit="points",
                    rows=len(errors),
                )
            )
    return rows


def _knee_row(dataset: str, policy: str, metric: str, published: Panels, simulated: Panels) -> Row:
    points = published[dataset, policy]
    rates = [*(f"at {p.rate_rps:g}/s" for p in points), "at no rate"]
    theirs, ours = knee(points, metric), knee(simulated[dataset, policy], metric)
    return Row(
        section=SECTION,
        what=f"{dataset}, {policy}: {metric.upper()} knee {rates[ours]}, published {rates[theirs]}",
        measured=abs(ours - theirs),
        high=1,
        unit="rate steps",
        rows=len(points),
    )


def _ministral_rows() -> list[Row]:
    """Ministral-3B, known as it was quoted: where TTFT collapses, and what was saved there."""
    quoted = quotations()["ministral"]
    rates, lengths = quoted["rates_rps"], fitted_lengths()[MINISTRAL.dataset]
    panels = {
        ("", policy): run_panel(MINISTRAL, policy, rates, lengths)
        for policy in ("f1410", "voltana")
    }
    saved = savings(panels, "", "voltana").values()
    collapsed = [p.rate_rps for p in panels["", "voltana"] if p.ttft < COLLAPSED]
    return [
        Row(
            section=SECTION,
            what="Ministral-3B, voltana-v0.1: first rate with less than half of TTFTs kept "
            "(quoted: between 120 and 150/s)",
            measured=min(collapsed, default=math.nan),
            low=rates[0],
            high=rates[-1],
            unit="requests/s",
            rows=len(rates),
        ),
        Row(
            section=SECTION,
            what=f"Ministral-3B: saving of voltana-v0.1 over those rates (quoted: "
            f"{quoted['saving']:g}; thresholds and lengths unknown)",
            measured=100 * sum(saved) / len(saved),
            rows=len(rates),
        ),
    ]


def _cluster(panel: Panel, slo: Slo, hardware: HardwareProfile) -> ClusterSpec:
    setup = tomllib.loads(SETUP.read_text(encoding="utf-8"))
    return ClusterSpec(
        hardware=hardware,
        model=load_model(panel.model),
        slo=slo,
        tensor_parallel=panel.tensor_parallel,
        engine=EngineOptions(transfer=False, **setup["engine"]),
    )


@cache
def plant_of(panel: Panel) -> PlantModel:
    """The instances of a panel, on the boards that the profile describes."""
    return _plant_on(panel, load_hardware(BOARD))


def _plant_on(panel: Panel, hardware: HardwareProfile) -> PlantModel:
    return PlantModel(hardware, load_model(panel.model), panel.tensor_parallel)


def _number(text: str) -> float:
    return float(text) if text else math.nan
