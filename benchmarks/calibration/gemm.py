"""Matrix products: tiles, waves and operands, on 35,742 measured products a board.

A third of the shapes (columns, depth) is held out. A kernel of more than a millisecond is left out
on H100: the benchmark's loop then lasts long enough for the board's power limit to lower the clock
(from 0.81 to 0.66 of the published peak between 0.6 and 1.5 ms, at any shape), and that is the
power model's part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.calibration.data import columns, rows
from benchmarks.calibration.fit import Fitted, describe, fit_log_times, with_section
from voltana.plant.cost import FASTEST
from voltana.plant.gemm import batched_cost
from voltana.plant.hardware import HardwareProfile, load_hardware

if TYPE_CHECKING:
    from voltana.values import FloatArray

SETS = {"a100-sxm4-80gb": "aic-a100-sglang", "h100-sxm": "aic-h100-sglang"}
UNTHROTTLED_S = {"a100-sxm4-80gb": np.inf, "h100-sxm": 1e-3}
START = {
    "efficiency": 0.8,
    "tile_penalty": 0.3,
    "fill_depth": 128.0,
    "split_cost": 1.0,
    "bandwidth_share": 0.8,
    "kernel_s": 4e-6,
    "overlap": 4.0,
}
_SUBSET = 4000


def product_seconds(
    hardware: HardwareProfile, m: FloatArray, n: FloatArray, k: FloatArray, dtype: str = "bf16"
) -> FloatArray:
    """Time of products of many shapes at the highest clock."""
    return np.asarray(batched_cost(hardware, 1.0, m, n, k, dtype=dtype).seconds(FASTEST))


def fit() -> list[Fitted]:
    """Coefficients of the section ``gemm``."""
    return [_fit(name, folder) for name, folder in SETS.items()]


def _fit(name: str, folder: str) -> Fitted:
    hardware = load_hardware(name)
    m, n, k, measured = columns(rows(f"{folder}/gemm_bf16.csv.gz"), "m", "n", "k", "latency")
    measured = measured * 1e-3
    keep = (n >= 512) & (k >= 512) & (n <= 32768) & (k <= 32768) & (measured < UNTHROTTLED_S[name])
    m, n, k, measured = m[keep], n[keep], k[keep], measured[keep]
    train = _held_out_shapes(n, k)
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(train))[:_SUBSET]

    def model(values: dict[str, float], rows: FloatArray | slice = slice(None)) -> FloatArray:
        board = with_section(hardware, "gemm", **values)
        return product_seconds(board, m[rows], n[rows], k[rows])

    values = fit_log_times(
        lambda values: model(values, chosen), measured[chosen], np.ones(len(chosen)), START
    )
    text = describe(model(values), measured, train)
    return Fitted(
        hardware=name,
        section="gemm",
        values=values,
        source="aiconfigurator-core 0.12.0 operator latencies (SGLang), gemm_bf16",
        residual=text,
        valid="1 to 32768 rows, columns and depth 512 to 32768, bf16; other types by their peak",
    )


def _held_out_shapes(n: FloatArray, k: FloatArray) -> FloatArray:
    """Weights: 0 for a third of the shapes, chosen at random, else 1."""
    shapes, index = np.unique(np.stack([n, k]), axis=1, return_inverse=True)
    weight = np.where(np.random.default_rng(0).random(shapes.shape[1]) < 1 / 3, 0.0, 1.0)
    return np.asarray(weight[index])
