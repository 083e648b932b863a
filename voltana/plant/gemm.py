"""Time of a matrix product: tiles, waves, weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.cost import Cost
from voltana.plant.model import BYTES_PER_ELEMENT

if TYPE_CHECKING:
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.operators import Gemm
    from voltana.values import FloatArray


def gemm_cost(hardware: HardwareProfile, gemm: Gemm, rows: FloatArray, dtype: str) -> Cost:
    """Cost of `gemm` for arrays of row counts."""
    fit = hardware.gemm
    size = BYTES_PER_ELEMENT[dtype]
    peak = hardware.peak_flops[dtype] * hardware.max_clock_mhz / hardware.peak_clock_mhz
    used, each = _experts_used(gemm, rows)
    tile = fit.tile_rows
    padded = np.where(each > tile / 2, np.ceil(each / tile) * tile, tile / 2)
    flops = 2.0 * gemm.count * used * each * gemm.n * gemm.k
    moved = gemm.count * size * used * (gemm.n * gemm.k + each * (gemm.n + gemm.k))
    compute = 2.0 * gemm.count * used * padded * gemm.n * gemm.k / (peak * fit.efficiency)
    return Cost(
        kind="gemm",
        flops=flops,
        bytes=moved,
        compute_s=compute,
        memory_s=moved / (hardware.memory_bandwidth * fit.bandwidth_share),
        serial_s=np.full_like(rows, gemm.count * fit.kernel_s, dtype=float),
        overlap=fit.overlap,
    )


def _experts_used(gemm: Gemm, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weights touched and rows at each, for uniformly random routing."""
    if gemm.experts == 1:
        return np.ones_like(rows, dtype=float), np.asarray(rows, dtype=float)
    share = gemm.per_token / gemm.experts
    used = np.maximum(gemm.experts * (1.0 - (1.0 - share) ** rows), 1.0)
    return used, rows * gemm.per_token / used
