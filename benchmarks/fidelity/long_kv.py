"""Decode attention over large caches: the measured kernels of one layer, by the size of its cache.

The kernel on A100 gives whole units of work (one KV head of one request) to SMs; rows whose units
do not fill them evenly are shown too, for the plant spreads all units evenly, as engines' default
backends do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fidelity import Row
from tools.calibration.attention import HEADS, layer_attention
from tools.calibration.data import columns, rows
from tools.calibration.gemm import SETS
from voltana.plant.attention import decode_cost
from voltana.plant.cost import FASTEST
from voltana.plant.fit.least_squares import with_section
from voltana.plant.hardware import load_hardware

if TYPE_CHECKING:
    from pathlib import Path

SECTION = "Decode attention over large caches"
LONG_BYTES = 512e6
EVEN_SHARE = 0.85
_BYTES_A_TOKEN = 512.0


def run(data_dir: Path) -> list[Row]:
    """Signed median error above 512 MB of cache a layer, kernels as measured."""
    found = []
    for name, folder in SETS.items():
        table = rows(f"{folder}/generation_attention_bf16_hd128.csv.gz", data_dir)
        batch, context, heads, kv_heads, measured = columns(
            table, "batch_size", "step", *HEADS, "latency"
        )
        board = with_section(load_hardware(name), "attention_decode", backend_sm_share=1.0)
        cached = batch * (context + 1)
        cost = decode_cost(board, layer_attention(heads, kv_heads), batch, cached)
        error = np.asarray(cost.seconds(FASTEST)) / (1e-3 * measured) - 1.0
        waves = batch * kv_heads / board.sm_count
        long = (cached * kv_heads * _BYTES_A_TOKEN >= LONG_BYTES) & (context >= 100)
        even = long & (waves / np.ceil(waves) > EVEN_SHARE)
        for what, chosen, target in (("all rows", long, 10.0), ("SMs filled evenly", even, 10.0)):
            found.append(
                Row(
                    section=SECTION,
                    what=f"{name}, {what}: median error above 512 MB a layer, signed",
                    measured=100.0 * float(np.median(error[chosen])),
                    low=-target,
                    high=target,
                    rows=int(chosen.sum()),
                )
            )
    return found
