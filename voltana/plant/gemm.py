"""Time of a matrix product: tiles in waves over the SMs, operands through memory.

A kernel cuts the result into tiles, each computed by one SM over the whole depth (or a part of it:
split-K), so its compute time is that of ceil(tiles / SMs) waves. The library's heuristic is taken
to find the fastest of a few tile shapes and splits. Operands stream through memory meanwhile, and
the two overlap in a smooth maximum (S. Williams et al., "Roofline", CACM 2009, for the bound
itself).

All choices differ in compute time only, so the best one is the same at every clock, and time never
falls when rows are added.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.cost import Cost
from voltana.plant.model import BYTES_PER_ELEMENT
from voltana.plant.weight_formats import weight_format

if TYPE_CHECKING:
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.operators import Gemm
    from voltana.values import FloatArray

TILES = ((64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128))
"""Tile shapes, rows by columns, that libraries have kernels for."""

SPLITS = (1, 2, 4, 8)
"""Parts that the depth may be cut into when there are too few tiles."""

_PARTIAL_SUM_BYTES = 8.0
_RESULT_BYTES = 2.0
_SPLIT_KERNELS = 0.3


def gemm_cost(hardware: HardwareProfile, gemm: Gemm, rows: FloatArray, weights: str) -> Cost:
    """Cost of `gemm` for an array of row counts; all parts have its shape.

    Args:
        hardware: The board.
        gemm: The product.
        rows: Rows of it.
        weights: Format of the weights, a key of `weight_formats.FORMATS`.
    """
    matrices, each = _matrices(gemm, rows)
    splits = SPLITS if gemm.experts == 1 else (1,)
    stored = weight_format(weights)
    cost = batched_cost(
        hardware,
        matrices,
        each,
        gemm.n,
        gemm.k,
        dtype=stored.arithmetic,
        element_bytes=(stored.activation_bytes, stored.bytes),
        count=gemm.count,
        splits=splits,
    )
    if gemm.experts == 1:
        return cost
    grouped_s = gemm.count * hardware.gemm.grouped_kernel_s
    return replace(cost, serial_s=cost.serial_s + grouped_s)


def batched_cost(
    hardware: HardwareProfile,
    matrices: FloatArray | float,
    rows: FloatArray,
    columns: FloatArray | float,
    depth: FloatArray | float,
    *,
    dtype: str,
    element_bytes: tuple[float, float] | None = None,
    count: int = 1,
    splits: tuple[int, ...] = SPLITS,
) -> Cost:
    """Cost of `count` kernels, each for a batch of equal products; the arguments broadcast.

    `element_bytes` are those of what is read, rows and weights; results have at least two bytes.
    """
    fit = hardware.gemm
    products = count * np.asarray(matrices, dtype=float)
    row_bytes, weight_bytes = element_bytes or (BYTES_PER_ELEMENT[dtype],) * 2
    moved = rows * depth * row_bytes + depth * columns * weight_bytes
    moved = products * (moved + rows * columns * max(row_bytes, _RESULT_BYTES))
    compute = tile_seconds(
        hardware, rows, columns, depth, dtype=dtype, matrices=matrices, splits=splits
    )
    return Cost(
        kind="gemm",
        flops=2.0 * products * rows * columns * depth,
        bytes=moved,
        compute_s=count * compute,
        memory_s=moved / (hardware.memory_bandwidth * fit.bandwidth_share),
        serial_s=np.full_like(compute, count * fit.kernel_s),
        overlap=fit.overlap,
    )


def tile_seconds(
    hardware: HardwareProfile,
    rows: FloatArray,
    columns: FloatArray | float,
    depth: FloatArray | float,
    *,
    dtype: str,
    matrices: FloatArray | float = 1.0,
    splits: tuple[int, ...] = SPLITS,
) -> FloatArray:
    """Compute time of the best tiling at the highest clock; the arguments broadcast."""
    fit = hardware.gemm
    sm_peak = hardware.peak_at_max(dtype) / hardware.sm_count
    shape = np.broadcast_shapes(*map(np.shape, (rows, columns, depth, matrices)))
    best: FloatArray = np.full(shape, np.inf)
    for tile_rows, tile_columns in TILES:
        loss = 1.0 + fit.tile_penalty * (64 / tile_rows + 64 / tile_columns - 0.75)
        element_s = 2.0 * tile_rows * tile_columns * loss / (sm_peak * fit.efficiency)
        tiles = matrices * np.ceil(rows / tile_rows) * np.ceil(columns / tile_columns)
        for parts in splits:
            waves = np.ceil(tiles * parts / hardware.sm_count)
            seconds = waves * element_s * (np.ceil(depth / parts) + fit.fill_depth)
            if parts > 1:
                sums = parts * rows * columns * _PARTIAL_SUM_BYTES
                seconds = seconds + fit.split_cost * sums / hardware.memory_bandwidth
                seconds = seconds + _SPLIT_KERNELS * fit.kernel_s
            best = np.minimum(best, seconds)
    return best


def _matrices(gemm: Gemm, rows: FloatArray) -> tuple[FloatArray | float, FloatArray]:
    """Weights touched and mean rows at each, for uniformly random routing to experts."""
    rows = np.asarray(rows, dtype=float)
    if gemm.experts == 1:
        return 1.0, rows
    untouched = (1.0 - gemm.per_token / gemm.experts) ** rows
    used = np.maximum(gemm.experts * (1.0 - untouched), 1.0)
    return used, rows * gemm.per_token / used
