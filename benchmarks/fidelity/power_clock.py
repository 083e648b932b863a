"""Power against the SM clock: EnergAIzer's A100 at locked clocks, and the energy of prefill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq

from benchmarks.fidelity import Row
from benchmarks.fidelity.power_runs import energaizer, errors
from tools.calibration.power import A100_EXPECTED, fit, predict
from tools.calibration.power_curves import a100_curves
from voltana.plant import PlantModel, load_hardware, load_model
from voltana.plant.cost import ClockState
from voltana.plant.gemm import gemm_cost
from voltana.plant.operators import Gemm
from voltana.plant.power import PowerModel
from voltana.values import Load

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.fidelity.power_runs import PowerRun

SECTION = "power against clock"
_EAGER_ONLY = ("toggle_w", "gemm_bf16", "gemm_fp32", "gemm_batched", "elementwise")


def run(data_dir: Path) -> list[Row]:
    """Compare power at the clocks that were really held, and find the energy minimum."""
    runs = list(energaizer(data_dir))
    error = errors(runs, PowerModel(load_hardware("a100-pcie-40gb")))
    held_out = _held_out_by_model(runs, data_dir)
    return [
        Row(
            section=SECTION,
            what="EnergAIzer A100 prefill, actual clocks, launch-bound rows left out: rms",
            measured=100 * _rms(error),
            high=5,
            rows=len(runs),
        ),
        Row(
            section=SECTION,
            what="the same, each of the three models held out of the fit in turn: rms",
            measured=100 * _rms(held_out),
            rows=len(runs),
        ),
        *_energy_rows(),
    ]


def _rms(error: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(np.sqrt(np.mean(error**2)))


def _held_out_by_model(
    runs: list[PowerRun], data_dir: Path
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Errors on each model by coefficients fitted to the other two."""
    curves = a100_curves(data_dir)
    expected = {name: A100_EXPECTED[name] for name in _EAGER_ONLY}
    models = sorted({run.label.split()[0] for run in runs})
    parts = []
    for model in models:
        others = [run for run in runs if not run.label.startswith(model)]
        these = [run for run in runs if run.label.startswith(model)]
        values, _ = fit(others, expected, curves)
        measured = np.array([run.measured_w for run in these])
        parts.append(predict(these, values, curves) / measured - 1)
    return np.concatenate(parts)


def _energy_rows() -> list[Row]:
    """Where the energy of prefill is least, and what it saves, on the plant itself."""
    plant = PlantModel(load_hardware("a100-sxm4-80gb"), load_model("llama-3.1-8b"))
    load = Load.prefill([(2048, 0)])
    clocks = plant.hardware.clocks_mhz
    energies = [plant.energy_j(load, mhz) for mhz in clocks]
    unlimited = {mhz: _unlimited_j(plant, load, mhz) for mhz in (1005.0, 1410.0)}
    workload = "Llama-3.1-8B prefill of 2048 tokens, A100-SXM4-80GB: "
    return [
        Row(
            section=SECTION,
            what=f"{workload}clock of least energy",
            measured=clocks[int(np.argmin(energies))],
            low=960,
            high=1050,
            unit="MHz",
            rows=len(clocks),
        ),
        Row(
            section=SECTION,
            what=f"{workload}E(1005)/E(1410), power limit left out (0.65 on average in the data)",
            measured=unlimited[1005.0] / unlimited[1410.0],
            unit="",
            rows=2,
        ),
        Row(
            section=SECTION,
            what=f"{workload}E(1005)/E(1410) on a 400 W board",
            measured=plant.energy_j(load, 1005.0) / plant.energy_j(load, 1410.0),
            unit="",
            rows=2,
        ),
        Row(
            section=SECTION,
            what="GEMM of 8192 x 8192 x 8192 on a 400 W board, asked for 1410 MHz: clock held "
            "(1216-1281 MHz measured on heavy GEMMs)",
            measured=_gemm_clock_mhz(plant),
            unit="MHz",
            rows=1,
        ),
    ]


def _unlimited_j(plant: PlantModel, load: Load, clock_mhz: float) -> float:
    parts = plant.latency.breakdown(load, clock_mhz)
    return plant.power.power_w(parts, clock_mhz) * sum(part.seconds for part in parts)


def _gemm_clock_mhz(plant: PlantModel) -> float:
    """Clock at which one large GEMM after the other draws the board's limit."""
    board, size = plant.hardware, 8192
    cost = gemm_cost(board, Gemm(name="large", n=size, k=size), np.array([float(size)]), "bf16")
    core_j, fixed_j = plant.power.operation_j(
        "gemm", *(float(np.ravel(part)[0]) for part in (cost.flops, cost.bytes))
    )

    def excess_w(clock_mhz: float) -> float:
        clock = plant.power.at(clock_mhz)
        seconds = float(np.ravel(cost.seconds(ClockState.of(board, clock_mhz)))[0])
        return (
            clock.running_w + (clock.core_share * core_j + fixed_j) / seconds - plant.power.limit_w
        )

    return float(brentq(excess_w, board.clocks.min_mhz, board.max_clock_mhz))
