"""How fast is it? Rates and ratios, each taken within one run of this program.

``make bench`` prints a table; ``--json FILE`` writes the figures for machines.
"""

from __future__ import annotations

import argparse
import dataclasses
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

from voltana.cluster.context import instance_context
from voltana.garbage import look_seldom
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
from voltana.values import ActuatorStatus, Domain, Load, Queue, Reading, Role

AZURE = Path("../shared/data/azure-llm-2023/AzureLLMInferenceTrace_conv.csv.gz")
SLO = Slo(ttft_s=0.8, itl_s=0.05)
RATE_RPS = 60
CONTROL_STEPS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    look_seldom()  # as the command line does
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
    """One control step (observe, forecast, decide, learn, plan when due) of a decode instance.

    In time of the thread: what else the machine does is no cost of the policy.
    """
    rows = []
    medians_us = {}
    for count, most_us in ((28, 60), (81, 90)):
        steps_us = np.array(_control_steps(count)) * 1e6
        medians_us[count] = float(np.median(steps_us))
        worst_us = float(np.quantile(steps_us, 0.99))
        what = f"control step with {count} levels"
        rows.append((f"{what}, p50", medians_us[count], "us", f"< {most_us}"))
        rows.append((f"{what}, p99", worst_us, "us", "< 200"))
    ratio = medians_us[81] / medians_us[28]
    return [*rows, ("control step, 81 over 28 levels, p50", ratio, "x", "<= 1.5")]


def _control_steps(levels: int) -> list[float]:
    """Seconds of the thread for each step of the default policy, as the batch drifts."""
    cluster = ClusterSpec(
        hardware=load_hardware("a100-sxm4-80gb"), model=load_model("llama-3.1-8b"), slo=SLO
    )
    plant = PlantModel(cluster.hardware, cluster.model, 1)
    device, time_source = _Device(), ManualTime()
    loop = _decode_loop(cluster, EvenlySpaced(levels).levels(A100_CLOCKS_MHZ), device, time_source)
    rng = np.random.default_rng(0)
    batches = np.clip(120 + np.cumsum(rng.integers(-1, 2, CONTROL_STEPS)), 1, 250).tolist()
    noises = rng.lognormal(0.0, 0.03, CONTROL_STEPS).tolist()
    steps_s = []
    for batch, noise in zip(batches, noises, strict=True):
        load, queue = Load.decode(batch, batch * 300), Queue()
        true_s = plant.iterate(load, device.clock_mhz).latency_s * noise
        before_s = time.thread_time()
        decision = loop.decide(load, queue)
        time_source.advance(true_s)
        loop.learn(
            decision,
            load=load,
            latency_s=true_s,
            clock_mhz=device.clock_mhz,
            ended_at_s=time_source.now_s(),
        )
        steps_s.append(time.thread_time() - before_s)
    return steps_s[1000:]


def _decode_loop(
    cluster: ClusterSpec,
    levels_mhz: tuple[float, ...],
    device: _Device,
    time_source: ManualTime,
) -> ControlLoop:
    """The control loop of a decode instance of the default policy."""
    context = instance_context(
        "decode-0",
        Role.DECODE,
        table_mhz=cluster.hardware.clocks_mhz,
        slo=cluster.slo,
        limits=cluster.limits,
        datasheet=cluster.datasheet(),
        max_power_w=cluster.hardware.tdp_w,
    )
    made = get_policy("voltana").control(dataclasses.replace(context, levels_mhz=levels_mhz))
    return ControlLoop(
        instance="decode-0",
        domain=Domain(name="decode-0"),
        controller=made.controller,
        actuator=device,
        sensor=device,
        time=time_source,
        levels_mhz=made.levels_mhz,
        predictor=made.predictor,
        power=made.power,
    )


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
