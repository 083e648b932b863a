"""How fast is it? Rates and ratios, each taken within one run of this program.

``make bench`` prints a table; ``--json FILE`` writes the figures for machines.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from voltana.levels import A100_CLOCKS_MHZ, EvenlySpaced
from voltana.loop import ControlLoop
from voltana.plant.cluster import ClusterSpec
from voltana.plant.hardware import load_hardware
from voltana.plant.iteration import PlantModel
from voltana.plant.model import load_model
from voltana.plant.simulation import Simulation
from voltana.plant.workload import make_workload
from voltana.policies.named import get_policy
from voltana.slo import Slo
from voltana.timebase import ManualTime
from voltana.values import ActuatorStatus, Domain, Load, Queue, Reading

AZURE = Path("../shared/data/azure-llm-2023/AzureLLMInferenceTrace_conv.csv.gz")
SLO = Slo(ttft_s=0.8, itl_s=0.05)
RATE_RPS = 60
CONTROL_STEPS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    rows: list[tuple[str, float, str, str]] = []
    for section in (simulation_rows, control_rows, help_rows, azure_rows):
        rows += section()
    _print(rows)
    if arguments.json:
        figures = [dict(zip(("what", "value", "unit", "target"), row, strict=True)) for row in rows]
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def simulation_rows() -> list[tuple[str, float, str, str]]:
    """Simulated time over wall time, and how the cost of an iteration grows with the run."""
    cluster = ClusterSpec(
        hardware=load_hardware("a100-sxm4-80gb"), model=load_model("llama-3.1-8b"), slo=SLO
    )
    plant = PlantModel(cluster.hardware, cluster.model, cluster.tensor_parallel)
    rows = []
    for name, target in (("static-max", ">= 400"), ("voltana-v0.1", ""), ("voltana", ">= 100")):
        ratio, short_us = max(_simulate(cluster, plant, name, 60.0) for _ in range(5))
        _, long_us = max(_simulate(cluster, plant, name, 240.0) for _ in range(2))
        rows.append((f"simulated over wall time, {name}", ratio, "x", target))
        rows.append(
            (f"cost of an iteration, 240 s over 60 s, {name}", long_us / short_us, "x", "about 1")
        )
    return rows


def _simulate(
    cluster: ClusterSpec, plant: PlantModel, name: str, duration_s: float
) -> tuple[float, float]:
    trace = make_workload("sharegpt", rate_rps=RATE_RPS, duration_s=duration_s, seed=1)
    simulation = Simulation(cluster, get_policy(name), trace, seed=1, plant=plant)
    start_s = time.perf_counter()
    simulation.run()
    wall_s = time.perf_counter() - start_s
    iterations = sum(i.iterations for i in simulation.record().instances)
    return simulation.now_s / wall_s, wall_s / iterations * 1e6


class _Device:
    """Actuator and sensor that cost next to nothing, so that only the control step is timed."""

    def __init__(self) -> None:
        self.clock_mhz = A100_CLOCKS_MHZ[-1]

    def table(self) -> tuple[float, ...]:
        return A100_CLOCKS_MHZ

    def apply(self, command) -> None:  # type: ignore[no-untyped-def]
        self.clock_mhz = command.clock_mhz

    def status(self) -> ActuatorStatus:
        return ActuatorStatus(clock_mhz=self.clock_mhz, target_mhz=self.clock_mhz)

    def close(self) -> None:
        """Nothing to give back."""

    def read(self) -> Reading:
        return Reading(at_s=0.0, clock_mhz=self.clock_mhz, power_w=300.0, energy_j=0.0)


def control_rows() -> list[tuple[str, float, str, str]]:
    """One control step (observe, forecast all levels, decide, learn) of the voltana policy."""
    steps_s = {count: np.array(_control_steps(count)) for count in (28, 81)}
    p50_us = {count: float(np.median(s)) * 1e6 for count, s in steps_s.items()}
    p99_us = {count: float(np.quantile(s, 0.99)) * 1e6 for count, s in steps_s.items()}
    return [
        ("control step with 28 levels, p50", p50_us[28], "us", "< 60"),
        ("control step with 28 levels, p99", p99_us[28], "us", "< 200"),
        ("control step with 81 levels, p50", p50_us[81], "us", ""),
        ("control step, 81 over 28 levels, p50", p50_us[81] / p50_us[28], "x", "<= 1.5"),
    ]


def _control_steps(levels: int) -> list[float]:
    from voltana.controllers.ecofreq import EcoFreq  # noqa: PLC0415
    from voltana.predictors.ecopred import EcoPred  # noqa: PLC0415

    cluster = ClusterSpec(
        hardware=load_hardware("a100-sxm4-80gb"), model=load_model("llama-3.1-8b"), slo=SLO
    )
    plant = PlantModel(cluster.hardware, cluster.model, 1)
    levels_mhz = EvenlySpaced(levels).levels(A100_CLOCKS_MHZ)
    predictor = EcoPred.from_datasheet(cluster.datasheet())
    device = _Device()
    loop = ControlLoop(
        instance="decode-0",
        domain=Domain(name="decode-0"),
        controller=EcoFreq(predictor, levels_mhz, SLO),
        actuator=device,
        sensor=device,
        time=ManualTime(),
        levels_mhz=levels_mhz,
        predictor=predictor,
    )
    rng = np.random.default_rng(0)
    batches = rng.integers(1, 256, CONTROL_STEPS).tolist()
    noises = rng.lognormal(0.0, 0.03, CONTROL_STEPS).tolist()
    steps_s = []
    for batch, noise in zip(batches, noises, strict=True):
        load, queue = Load.decode(batch, batch * 300), Queue()
        true_s = plant.iterate(load, device.clock_mhz).latency_s * noise
        before_s = time.perf_counter()
        decision = loop.decide(load, queue)
        loop.learn(
            decision, load=load, latency_s=true_s, clock_mhz=device.clock_mhz, ended_at_s=0.0
        )
        steps_s.append(time.perf_counter() - before_s)
    return steps_s[1000:]


def help_rows() -> list[tuple[str, float, str, str]]:
    """How soon ``voltana --help`` answers."""
    walls_s = []
    for _ in range(5):
        start_s = time.perf_counter()
        subprocess.run([sys.executable, "-m", "voltana", "--help"], check=True, capture_output=True)
        walls_s.append(time.perf_counter() - start_s)
    return [("voltana --help", statistics.median(walls_s), "s", "< 0.5")]


def azure_rows() -> list[tuple[str, float, str, str]]:
    """The whole Azure hour under a static policy."""
    if not AZURE.exists():
        print(f"left out: the Azure hour, because {AZURE} is absent", file=sys.stderr)
        return []
    command = [sys.executable, "-m", "voltana", "simulate", "--policy", "static-max", "--json", "-"]
    start_s = time.perf_counter()
    subprocess.run(
        [*command, "--trace", str(AZURE), "--trace-format", "azure"],
        check=True,
        capture_output=True,
    )
    wall_s = time.perf_counter() - start_s
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return [
        ("the Azure hour, static-max", wall_s, "s", "< 60"),
        ("the Azure hour, peak memory", peak_mb, "MB", "< 300"),
    ]


def _print(rows: list[tuple[str, float, str, str]]) -> None:
    table = Table("what", "measured", "unit", "target")
    for what, value, unit, target in rows:
        table.add_row(what, f"{value:.3g}", unit, target)
    Console().print(table)


if __name__ == "__main__":
    main()
