"""Prefill and decode attention of one layer, on about 12,000 measured kernels a board.

A third of the head layouts is held out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tools.calibration.data import columns, rows
from tools.calibration.fitted import Fitted
from tools.calibration.gemm import SETS
from voltana.plant.attention import decode_cost, prefill_cost
from voltana.plant.cost import FASTEST
from voltana.plant.fit.least_squares import describe, fit_log_times, with_section
from voltana.plant.hardware import HardwareProfile, load_hardware
from voltana.plant.operators import Attention

if TYPE_CHECKING:
    from voltana.values import FloatArray

PREFILL_START = {
    "efficiency": 0.7,
    "query_passes": 0.6,
    "kv_passes": 3.0,
    "kernel_s": 1.3e-5,
}
DECODE_START = {
    "token_s": 3e-8,
    "unit_s": 4e-6,
    "bandwidth_share": 0.85,
    "kernel_s": 1.0e-5,
    "overlap": 3.0,
}
KNOWN_BANDWIDTH_SHARE = {"a100-sxm4-80gb": {"bandwidth_share": 0.82}}
"""The A100 kernel is bound by the SMs, so its times do not tell the memory's share; this is that of
pure streaming on A100."""
_LEAST_CONTEXT = 100
_CACHED_BYTES = 512.0
"""Keys and values of one token and one KV head of width 128."""
_EVEN_SHARE = 0.85
_SMALL_BYTES = 5e7
_LONG_BYTES = 2e8
_LONG_WEIGHT = 4.0
"""What a large cache weighs: there are fewer such rows than serving has such iterations."""
L2_BYTES = {"a100-sxm4-80gb": 0.0, "h100-sxm": 5e7, "b200-sxm": 1.26e8}
HEADS = ("num_heads", "num_key_value_heads")
SOURCE = "aiconfigurator-core 0.12.0 operator latencies (SGLang)"


def fit() -> list[Fitted]:
    """Coefficients of the sections ``attention_prefill`` and ``attention_decode``."""
    found = []
    for name, folder in SETS.items():
        board = load_hardware(name)
        found.append(fit_prefill(board, f"{folder}/context_attention_bf16_hd128.csv.gz"))
        found.append(
            fit_decode(
                board,
                f"{folder}/generation_attention_bf16_hd128.csv.gz",
                known=KNOWN_BANDWIDTH_SHARE.get(name, {}),
            )
        )
    return found


def fit_prefill(hardware: HardwareProfile, file: str, source: str = SOURCE) -> Fitted:
    """Batches that give every SM a tile of 128 queries; smaller ones take some 20-100 us."""
    table = rows(file)
    batch, length, heads, kv_heads, measured = columns(
        table, "batch_size", "isl", *HEADS, "latency"
    )
    keep = batch * np.ceil(length / 128) * heads >= hardware.sm_count
    batch, length, heads, kv_heads = (x[keep] for x in (batch, length, heads, kv_heads))
    measured, attention = measured[keep] * 1e-3, layer_attention(heads, kv_heads)
    pairs = batch * length * (length + 1.0) / 2.0

    def model(values: dict[str, float]) -> FloatArray:
        board = with_section(hardware, "attention_prefill", **values)
        return np.asarray(prefill_cost(board, attention, batch * length, pairs).seconds(FASTEST))

    train = held_out_heads(heads, kv_heads)
    values = fit_log_times(model, measured, train, PREFILL_START)
    text = describe(model(values), measured, train)
    return Fitted(
        hardware=hardware.name,
        section="attention_prefill",
        values=values,
        source=f"{source}, context_attention",
        residual=text,
        valid="16 to 16384 tokens a prompt, 1 to 96 heads of width 128, a tile for every SM, bf16",
    )


def fit_decode(
    hardware: HardwareProfile, file: str, source: str = SOURCE, *, known: dict[str, float]
) -> Fitted:
    """Contexts of 100 to 40,000 tokens, with units of work that fill the SMs evenly.

    The kernel on A100 gives whole units (one KV head of one request) to SMs: 128 of them on 108 SMs
    take as long as 216. Engines' defaults split them evenly, so such rows are left out.

    The benchmark reads the same KV cache again and again, so one that the L2 cache holds costs no
    memory time there: on H100 the step at that size is plain to see, on A100, whose kernel is bound
    by the SMs, there is none. In an engine the weights of a layer stream through the L2 cache in
    between.
    """
    table = rows(file)
    batch, context, heads, kv_heads, measured = columns(
        table, "batch_size", "step", *HEADS, "latency"
    )
    waves = batch * kv_heads / hardware.sm_count
    cached = batch * context * kv_heads * _CACHED_BYTES
    even = (waves / np.ceil(waves) > _EVEN_SHARE) | (cached < _SMALL_BYTES)
    keep = (context >= _LEAST_CONTEXT) & (context <= 40_000) & even
    batch, context, heads, kv_heads = (x[keep] for x in (batch, context + 1, heads, kv_heads))
    measured, attention = measured[keep] * 1e-3, layer_attention(heads, kv_heads)
    weight = np.where(cached[keep] > _LONG_BYTES, _LONG_WEIGHT, 1.0)

    def model(values: dict[str, float]) -> FloatArray:
        board = with_section(hardware, "attention_decode", backend_sm_share=1.0, **values)
        cost = decode_cost(board, attention, batch, batch * context)
        memory_s = np.where(cost.bytes < L2_BYTES[hardware.name], 0.0, cost.memory_s)
        return np.asarray(replace(cost, memory_s=memory_s).seconds(FASTEST))

    train = held_out_heads(heads, kv_heads)
    start = {key: value for key, value in DECODE_START.items() if key not in known}
    values = known | fit_log_times(
        lambda values: model(known | values),
        measured,
        train * weight,
        start,
        lower={"overlap": 3.0},
        upper={"bandwidth_share": 0.97, "overlap": 4.0},
    )
    text = describe(model(values), measured, train)
    return Fitted(
        hardware=hardware.name,
        section="attention_decode",
        values=values,
        source=f"{source}, generation_attention",
        residual=text,
        valid="contexts of 100 to 40000 tokens, 1 to 96 heads of width 128, bf16; units of work "
        "that fill the SMs evenly",
    )


def layer_attention(heads: FloatArray, kv_heads: FloatArray) -> Attention:
    """One layer whose heads are arrays, so that all rows are computed at once."""
    return Attention(heads=heads, kv_heads=kv_heads, head_dim=128, kv_dtype_bytes=2)  # type: ignore[arg-type]


def held_out_heads(heads: FloatArray, kv_heads: FloatArray) -> FloatArray:
    """Weights: 0 for a third of the head layouts, else 1."""
    layouts, index = np.unique(np.stack([heads, kv_heads]), axis=1, return_inverse=True)
    weight = np.where(np.random.default_rng(1).random(layouts.shape[1]) < 1 / 3, 0.0, 1.0)
    return np.asarray(weight[index])
