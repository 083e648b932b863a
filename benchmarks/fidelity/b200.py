"""Attention on a B200: the plant's times and power against kernels measured in a loop.

Two thirds of the head layouts were fitted (times), and two thirds of the rows (power); what was
held out has rows of its own. Power has no target: two kernels that do the same work a second differ
by half in it, which no coefficient of the plant tells apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fidelity import Row
from tools.calibration.attention import HEADS, held_out_heads, layer_attention
from tools.calibration.b200 import DECODE, L2_BYTES, PREFILL, kernel_runs
from tools.calibration.data import columns, rows
from voltana.plant.attention import decode_cost, prefill_cost
from voltana.plant.cost import FASTEST
from voltana.plant.hardware import HardwareProfile, load_hardware
from voltana.plant.power import PowerModel

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.values import FloatArray

SECTION = "Attention on a B200"
_LEAST_PROMPT = 16
_CONTEXTS = (100, 40_000)
_WIDTH_BYTES = 512.0


def run(data_dir: Path) -> list[Row]:
    """Errors of times, fitted and held out, and of power."""
    board = load_hardware("b200-sxm")
    return [
        *_times("prefill", *_prefill(board, data_dir)),
        *_times("decode beyond the L2 cache", *_decode(board, data_dir)),
        *_power(board),
    ]


def _prefill(board: HardwareProfile, data_dir: Path) -> tuple[FloatArray, FloatArray]:
    batch, length, heads, kv_heads, ms = columns(
        rows(PREFILL, data_dir), "batch_size", "isl", *HEADS, "latency"
    )
    tokens, pairs = batch * length, batch * length * (length + 1.0) / 2.0
    cost = prefill_cost(board, layer_attention(heads, kv_heads), tokens, pairs)
    keep = (batch * np.ceil(length / 128) * heads >= board.sm_count) & (length >= _LEAST_PROMPT)
    error = np.asarray(cost.seconds(FASTEST)) / (1e-3 * ms) - 1.0
    return error[keep], held_out_heads(heads[keep], kv_heads[keep])


def _decode(board: HardwareProfile, data_dir: Path) -> tuple[FloatArray, FloatArray]:
    batch, step, heads, kv_heads, ms = columns(
        rows(DECODE, data_dir), "batch_size", "step", *HEADS, "latency"
    )
    context = step + 1
    cost = decode_cost(board, layer_attention(heads, kv_heads), batch, batch * context)
    large = batch * context * kv_heads * _WIDTH_BYTES > L2_BYTES
    keep = large & (step >= _CONTEXTS[0]) & (step <= _CONTEXTS[1])
    error = np.asarray(cost.seconds(FASTEST)) / (1e-3 * ms) - 1.0
    return error[keep], held_out_heads(heads[keep], kv_heads[keep])


def _times(what: str, error: FloatArray, weight: FloatArray) -> list[Row]:
    out = error[weight == 0]
    return [
        Row(
            section=SECTION,
            what=f"{what}: time, median absolute error (bias {100 * np.median(error):+.0f} %)",
            measured=float(100 * np.median(np.abs(error))),
            high=15.0,
            rows=len(error),
        ),
        Row(
            section=SECTION,
            what=f"{what}: the same of head layouts that were held out",
            measured=float(100 * np.median(np.abs(out))),
            rows=len(out),
        ),
    ]


def _power(board: HardwareProfile) -> list[Row]:
    power, found = PowerModel(board), []
    runs = kernel_runs(board)
    for source in ("B200 prefill", "B200 decode"):
        every = np.array([run.error(power) for run in runs if run.source == source])
        out = np.array([run.error(power) for run in runs[2::3] if run.source == source])
        for words, error in (("", every), (", held out", out)):
            found.append(
                Row(
                    section=SECTION,
                    what=f"{source.removeprefix('B200 ')}: power below the limit{words}, median "
                    f"absolute error (bias {100 * error.mean():+.0f} %)",
                    measured=float(100 * np.median(np.abs(error))),
                    rows=len(error),
                )
            )
    return found
