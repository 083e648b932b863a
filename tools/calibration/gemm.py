"""Matrix products: tiles, waves and operands, on 35,742 measured products a board.

A third of the shapes (columns, depth) is held out. A kernel of more than a millisecond is left out
on H100: the benchmark's loop then lasts long enough for the board's power limit to lower the clock
(from 0.81 to 0.66 of the published peak between 0.6 and 1.5 ms, at any shape), and that is the
power model's part.

The products of whole layers (vidur) take 15-25 % longer on H100 than those of a loop over one
product at 65 to 1,024 rows, and agree elsewhere and on A100. What engines reach lies between, so
H100 is fitted to both alike, with Llama-2-70B held out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tools.calibration.data import columns, rows
from tools.calibration.fitted import Fitted
from voltana.plant.cost import FASTEST
from voltana.plant.fit.least_squares import describe, fit_log_times, with_section
from voltana.plant.gemm import batched_cost
from voltana.plant.hardware import HardwareProfile, load_hardware

if TYPE_CHECKING:
    from voltana.values import FloatArray

SETS = {"a100-sxm4-80gb": "aic-a100-sglang", "h100-sxm": "aic-h100-sglang"}
UNTHROTTLED_S = {"a100-sxm4-80gb": np.inf, "h100-sxm": 1e-3}
LAYERS = {"h100-sxm": ("h100__Llama-2-7b-hf__mlp.csv.gz", "h100__Llama-2-70b-hf__mlp.csv.gz")}
"""Layers that a board is fitted to as well: one model fitted, one held out."""
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
_LAYER_SUBSET = 4000


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
    table = np.stack([m, n, k, measured])
    fitted = [_some(table[:, train > 0], _SUBSET)]
    layers = [layer_products(file) for file in LAYERS.get(name, ())]
    fitted += [_some(layers[0], _LAYER_SUBSET)] if layers else []
    chosen = np.concatenate(fitted, axis=1)

    def model(values: dict[str, float], products: FloatArray) -> FloatArray:
        return product_seconds(with_section(hardware, "gemm", **values), *products[:3])

    values = fit_log_times(
        lambda values: model(values, chosen), chosen[3], np.ones(chosen.shape[1]), START
    )
    text = describe(model(values, table), measured, train)
    source = "aiconfigurator-core 0.12.0 operator latencies (SGLang), gemm_bf16"
    if layers:
        source += "; vidur compute profiles, Llama-2-7B (Llama-2-70B held out)"
        both, seven = np.concatenate(layers, axis=1), layers[0].shape[1]
        weight = np.where(np.arange(both.shape[1]) < seven, 1.0, 0.0)
        text += f"; in layers: {describe(model(values, both), both[3], weight)}"
    return Fitted(
        hardware=name,
        section="gemm",
        values=values,
        source=source,
        residual=text,
        valid="1 to 32768 rows, columns and depth 512 to 32768, bf16; other types by their peak",
    )


def layer_products(file: str) -> FloatArray:
    """Rows (m, n, k, seconds) of the products of measured layers."""
    found = []
    for line in rows(f"vidur-profiles/{file}"):
        boards, tokens = int(line["num_tensor_parallel_workers"]), int(line["num_tokens"])
        hidden, heads, width = (int(line[key]) for key in ("n_embd", "n_head", "n_expanded_embd"))
        own, kv_heads = heads // boards, max(1, int(line["n_kv_head"]) // boards)
        head = hidden // heads
        for kernel, columns_, depth in (
            ("attn_pre_proj", (own + 2 * kv_heads) * head, hidden),
            ("attn_post_proj", hidden, own * head),
            ("mlp_up_proj", 2 * width // boards, hidden),
            ("mlp_down_proj", hidden, width // boards),
        ):
            seconds = float(line[f"time_stats.{kernel}.median"]) * 1e-3
            found.append((tokens, columns_, depth, seconds))
    return np.array(found, dtype=float).T


def _some(products: FloatArray, count: int) -> FloatArray:
    order = np.random.default_rng(0).permutation(products.shape[1])
    return np.asarray(products[:, order[:count]])


def _held_out_shapes(n: FloatArray, k: FloatArray) -> FloatArray:
    """Weights: 0 for a third of the shapes, chosen at random, else 1."""
    shapes, index = np.unique(np.stack([n, k]), axis=1, return_inverse=True)
    weight = np.where(np.random.default_rng(0).random(shapes.shape[1]) < 1 / 3, 0.0, 1.0)
    return np.asarray(weight[index])
