"""A real SGLang on a real H100 and H200, measured by `python -m benchmarks.gpu`, never fitted to.

Decode iterations and their power at the clock that ran, prompts of at least 2,048 tokens (below,
the host launches kernels for longer than the device computes, which the plant does not model), idle
power, and the plugin's latencies beside the engine's own CUDA events.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.fidelity import Row
from voltana.plant import PlantModel, load_hardware, load_model

if TYPE_CHECKING:
    from collections.abc import Sequence

BOARDS = {"h100-sxm": "SGLang on an H100", "h200-sxm": "SGLang on an H200"}
"""Sections, by the hardware that the name of a run's file begins with."""

MEASURED = Path(__file__).parents[1] / "gpu" / "measured"
LEAST_PROMPT = 2048
STEADY_S = 10.0
"""An idle board that was watched for less may still be warm from what ran before."""


def run(_data_dir: Path) -> list[Row]:
    """Errors of the plant, plant over measurement minus 1, for each run of a grid."""
    runs = [
        (path.name.partition(".")[0], json.loads(path.read_text()))
        for path in sorted(MEASURED.glob("*.json"))
    ]
    return [row for hardware, run in runs if "decode" in run for row in _of(hardware, run)]


def _of(hardware: str, run: dict[str, Any]) -> list[Row]:
    model, section = run["about"]["model"], BOARDS[hardware]
    decode = [point for point in run["decode"].values() if "skipped" not in point]
    prefill = [
        point
        for tokens, point in run["prefill"].items()
        if int(tokens) >= LEAST_PROMPT and "skipped" not in point
    ]
    plant = PlantModel(load_hardware(hardware), load_model(model), run["about"]["boards"])
    plugin = [point["median_ms"] / point["engine_median_ms"] - 1.0 for point in decode]
    held = run.get("held_open", {"seconds": 0.0})
    idle = [_idle(section, model, plant, held)] if held["seconds"] >= STEADY_S else []
    return [
        *idle,
        _median(section, f"{model}, decode: time", decode, "plant_time_error", 10.0),
        _median(section, f"{model}, decode: power", decode, "plant_power_error", 15.0),
        _median(
            section,
            f"{model}, prompts from {LEAST_PROMPT} tokens: time",
            prefill,
            "plant_time_error",
        ),
        _median(
            section,
            f"{model}, prompts from {LEAST_PROMPT} tokens: power",
            prefill,
            "plant_power_error",
        ),
        Row(
            section=section,
            what=f"{model}, decode: the plugin's time against CUDA events, largest difference",
            measured=100.0 * float(np.max(np.abs(plugin))),
            high=5.0,
            rows=len(plugin),
        ),
    ]


def _idle(section: str, model: str, plant: PlantModel, held: dict[str, float]) -> Row:
    error = plant.idle_power_w(held["clock_mhz"]) / held["counter_w"] - 1.0
    return Row(
        section=section,
        what=f"{model}, a process that holds the board open, idle: power, signed error",
        measured=100.0 * error,
        low=-5.0,
        high=5.0,
        rows=1,
    )


def _median(
    section: str,
    what: str,
    points: Sequence[dict[str, float]],
    key: str,
    high: float | None = None,
) -> Row:
    errors = 100.0 * np.array([point[key] for point in points])
    return Row(
        section=section,
        what=f"{what}, median absolute error (bias {np.median(errors):+.0f} %, "
        f"{errors.min():+.0f} to {errors.max():+.0f} %)",
        measured=float(np.median(np.abs(errors))),
        high=high,
        rows=len(errors),
    )
