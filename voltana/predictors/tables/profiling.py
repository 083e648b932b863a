"""Profiles the tables of `TablePredictor` on a machine, as the published system's authors do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.predictors.robust_fit import fit_nonnegative
from voltana.predictors.tables.predictor import TablePredictor, tile_bounds, tile_index
from voltana.values import Load, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.policy import Bench
    from voltana.predictors.tables.predictor import DecodeTable, PrefillTable
    from voltana.values import FloatArray

CONTEXTS = (64, 256, 512, 1024, 2048, 4096)
"""Mean context of the decode requests that are profiled, in tokens."""

PROMPTS = (64, 128, 256, 512, 1024, 2048)
"""Lengths of the prompts that are profiled, in tokens."""

PROMPTS_PER_BATCH = (1, 2, 4, 8)


def profile_tables(
    bench: Bench,
    role: Role,
    clocks_mhz: Sequence[float],
    *,
    max_batch_tokens: int = 16384,
    max_batch: int = 1024,
    repeats: int = 3,
) -> TablePredictor:
    """Measure and fit one table for each clock.

    Args:
        bench: Where to measure.
        role: Which phases to profile; a colocated instance needs both.
        clocks_mhz: Clocks to profile, in any order.
        max_batch_tokens: Most prompt tokens in one prefill iteration.
        max_batch: Largest decode batch; whole tiles are profiled up to it.
        repeats: Measurements of each point.

    Raises:
        ConfigError: If there is nothing to measure.
    """
    if not clocks_mhz:
        raise invalid("clocks_mhz", (), "one clock or more", "Name the levels to profile.")
    if repeats < 1 or max_batch < 1:
        raise invalid("repeats, max_batch", (repeats, max_batch), "at least 1", "Measure once.")
    clocks = np.array(sorted(set(clocks_mhz)), dtype=np.float64)
    prefill: PrefillTable | None = None
    decode: DecodeTable | None = None
    if role is not Role.DECODE:
        loads = _prefill_loads(max_batch_tokens) * repeats
        prefill = np.stack([_prefill_row(bench, loads, float(mhz)) for mhz in clocks])
    if role is not Role.PREFILL:
        tiles = range(tile_index(max_batch) + 1)
        decode = np.stack(
            [
                np.stack([_decode_row(bench, tile, float(mhz), repeats) for tile in tiles])
                for mhz in clocks
            ]
        )
    return TablePredictor(clocks_mhz=clocks, prefill=prefill, decode=decode)


def _prefill_loads(max_batch_tokens: int) -> list[Load]:
    shapes = [(length, count) for length in PROMPTS for count in PROMPTS_PER_BATCH]
    fitting = [(n, k) for n, k in shapes if n * k <= max_batch_tokens]
    return [Load.prefill([(n, 0)] * k) for n, k in fitting or [(max_batch_tokens, 1)]]


def _prefill_row(bench: Bench, loads: list[Load], clock_mhz: float) -> FloatArray:
    x = np.array([[load.prefill_tokens, 1.0] for load in loads])
    return fit_nonnegative(x, np.array([bench.measure_s(load, clock_mhz) for load in loads]))


def _decode_row(bench: Bench, tile: int, clock_mhz: float, repeats: int) -> FloatArray:
    low, high = tile_bounds(tile)
    batches = sorted({low, (low + high) // 2, high})
    loads = [Load.decode(n, n * context) for n in batches for context in CONTEXTS] * repeats
    x = np.array([[load.decode_requests, load.decode_kv_tokens, 1.0] for load in loads])
    return fit_nonnegative(x, np.array([bench.measure_s(load, clock_mhz) for load in loads]))
