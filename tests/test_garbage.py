"""Processes of the command line, and workers of a sweep, look for cycles seldom: there are none."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from voltana import garbage
from voltana.evaluation.scenario import load_scenario
from voltana.plant.simulation import Simulation
from voltana.policies import get_policy

PROGRAM = """
import gc, typer
from voltana.cli.running import run
app = typer.Typer()
app.command()(lambda: print(*gc.get_threshold()))
run(app, "program")
"""


def test_a_program_of_the_command_line_looks_seldom() -> None:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True
    )
    assert told.stdout.split() == [str(garbage.YOUNG), "20", "20"]


@pytest.mark.parametrize("policy", ["voltana", "voltana-v0.1"])
def test_a_simulation_leaves_no_cycles(policy: str) -> None:
    workload = {"rate_rps": 20.0, "duration_s": 8.0}
    scenario = load_scenario(None, {"policies": [policy], "workload": workload})
    simulation = Simulation(
        scenario.cluster, scenario.configured(get_policy(policy)), scenario.trace
    )
    gc.collect()
    gc.disable()
    try:
        simulation.run()
        left = gc.collect()
    finally:
        gc.enable()
    assert simulation.finished
    assert not left
