"""What was measured on a B200: attention kernels in a loop, their times and their power.

Their power is fitted by the code that fits serving runs: a kernel in a loop is a run without gaps.
Rows within 5 % of the board's limit are left out, for there the clock is lower than the fastest.
A third of the rows is held out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fidelity.power_runs import PowerRun
from tools.calibration import power
from tools.calibration.attention import HEADS, fit_decode, fit_prefill
from tools.calibration.data import DATA, columns, rows
from tools.calibration.power_curves import Curves
from voltana.plant.coefficients import Provenance

if TYPE_CHECKING:
    from tools.calibration.fitted import Fitted
    from voltana.plant.hardware import HardwareProfile

FOLDER = "aic-b200-kernel-power"
PREFILL = f"{FOLDER}/context_attention_bf16_hd128_power.csv.gz"
DECODE = f"{FOLDER}/generation_attention_bf16_hd128_power.csv.gz"
SOURCE = "aiconfigurator-core 0.12.0 operator latencies (vLLM 0.22.0, FlashInfer)"
POWER_SHARE = 1.5
"""Idle power and waiting over H100's: the smallest kernels draw the measured 250 W then."""
EXPECTED = {
    "toggle_w": power.Expectation(mean=75, deviation=20),
    # H100's, times the share that the next process and tensor cores save by their data sheets
    "gemm_bf16": power.Expectation(mean=0.4, deviation=0.1),
    "memory": power.Expectation(mean=96, deviation=20),
}
LEAST_S = 3e-5
"""Shorter kernels wait for the host between each other, which the loop does not tell."""
L2_BYTES = 1.26e8
_AT_LIMIT = 0.95
_WIDTH_BYTES = 512.0
"""Keys and values of one token and one KV head of width 128."""


def fitted(board: HardwareProfile) -> HardwareProfile:
    """A board's profile with the sections that were measured on a B200."""
    prefill = fit_prefill(board, PREFILL, SOURCE)
    decode = fit_decode(board, DECODE, SOURCE, known={})
    board = _with(_with(board, prefill), decode)
    curves = Curves(idle_w={board.name: board.power.idle_w}, voltage_mv=board.power.voltage_mv)
    runs = kernel_runs(board)
    values, residual = power.fit(runs[::3] + runs[1::3], EXPECTED, curves)
    energies = power.energies(values | {"elementwise": values["memory"]})
    flop_pj = energies.flop_pj | {
        f"gemm_{dtype}": share * values["gemm_bf16"]
        for dtype, share in (("fp8", 0.5), ("fp32", 8.0))
    }
    update = {
        "toggle_w": float(f"{values['toggle_w']:.3g}"),
        "flop_pj": {name: float(f"{pj:.3g}") for name, pj in flop_pj.items()},
        "byte_pj": {name: float(f"{pj:.3g}") for name, pj in energies.byte_pj.items()},
        "source": f"{SOURCE}, power of attention in a loop; curves: {board.power.source}",
        "residual": residual,
        "valid": "attention at the fastest clock; products, idle power, voltage and what is below "
        "that clock inferred from h100-sxm",
    }
    return board.model_copy(update={"power": board.power.model_copy(update=update)})


def kernel_runs(board: HardwareProfile) -> list[PowerRun]:
    """Kernels measured below the board's limit, as runs without gaps, in a fixed order."""
    runs = [*_prefill_runs(board), *_decode_runs(board)]
    order = np.random.default_rng(0).permutation(len(runs))
    return [runs[index] for index in order]


def _prefill_runs(board: HardwareProfile) -> list[PowerRun]:
    batch, length, heads, kv_heads, ms, watts, limit = columns(
        rows(PREFILL, DATA), "batch_size", "isl", *HEADS, "latency", "power", "power_limit"
    )
    flops = batch * length * (length + 1.0) * heads * 256.0
    moved = batch * length * _WIDTH_BYTES * (heads + kv_heads)
    keep = (ms >= 1e3 * LEAST_S) & (watts < _AT_LIMIT * limit)
    return [
        _run(board, "B200 prefill", "attention_prefill", row)
        for row in zip(flops[keep], moved[keep], ms[keep], watts[keep], strict=True)
    ]


def _decode_runs(board: HardwareProfile) -> list[PowerRun]:
    batch, step, heads, kv_heads, ms, watts, limit = columns(
        rows(DECODE, DATA), "batch_size", "step", *HEADS, "latency", "power", "power_limit"
    )
    cached = batch * (step + 1)
    flops, moved = 512.0 * cached * heads, _WIDTH_BYTES * cached * kv_heads
    keep = (moved > L2_BYTES) & (watts < _AT_LIMIT * limit)
    return [
        _run(board, "B200 decode", "attention_decode", row)
        for row in zip(flops[keep], moved[keep], ms[keep], watts[keep], strict=True)
    ]


def _run(
    board: HardwareProfile, source: str, kind: str, row: tuple[float, float, float, float]
) -> PowerRun:
    flops, moved, ms, watts = map(float, row)
    return PowerRun(
        source=source,
        label="",
        hardware=board,
        clock_mhz=board.max_clock_mhz,
        period_s=1e-3 * ms,
        busy_s=1e-3 * ms,
        flops={kind: flops},
        bytes={kind: moved},
        measured_w=watts,
    )


def _with(board: HardwareProfile, found: Fitted) -> HardwareProfile:
    section = getattr(board, found.section)
    values = {name: float(f"{value:.4g}") for name, value in found.values.items()}
    words = Provenance(source=found.source, residual=found.residual, valid=found.valid)
    changed = section.model_copy(update={**values, "provenance": words})
    return board.model_copy(update={found.section: changed})
