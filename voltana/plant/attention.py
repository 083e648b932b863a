"""Time of attention: prefill by query-key pairs, decode by the KV cache read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.cost import Cost

if TYPE_CHECKING:
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.operators import Attention
    from voltana.values import FloatArray


def prefill_cost(
    hardware: HardwareProfile, attention: Attention, tokens: FloatArray, pairs: FloatArray
) -> Cost:
    """Cost of causal attention over `pairs` query-key pairs of `tokens` new tokens."""
    fit = hardware.attention
    peak = hardware.peak_flops["bf16"] * hardware.max_clock_mhz / hardware.peak_clock_mhz
    width = attention.heads * attention.head_dim
    flops = 4.0 * attention.count * pairs * width
    moved = attention.count * tokens * attention.head_dim * attention.kv_dtype_bytes
    moved = moved * 2.0 * (attention.heads + attention.kv_heads)
    return Cost(
        kind="attention_prefill",
        flops=flops,
        bytes=moved,
        compute_s=flops / (peak * fit.prefill_efficiency),
        memory_s=moved / hardware.memory_bandwidth,
        serial_s=attention.count * fit.kernel_s * np.asarray(tokens > 0, dtype=float),
        overlap=fit.overlap,
    )


def decode_cost(
    hardware: HardwareProfile, attention: Attention, requests: FloatArray, kv_tokens: FloatArray
) -> Cost:
    """Cost of one new token for each of `requests`, over `kv_tokens` cached tokens in all."""
    fit = hardware.attention
    width = attention.head_dim * attention.kv_dtype_bytes
    moved = 2.0 * attention.count * kv_tokens * attention.kv_heads * width
    flops = 4.0 * attention.count * kv_tokens * attention.heads * attention.head_dim
    per_token = attention.count * fit.decode_compute_s_per_token * attention.kv_heads
    return Cost(
        kind="attention_decode",
        flops=flops,
        bytes=moved,
        compute_s=per_token * kv_tokens,
        memory_s=moved / (hardware.memory_bandwidth * fit.decode_bandwidth_share),
        serial_s=attention.count * fit.kernel_s * np.asarray(requests > 0, dtype=float),
        overlap=fit.overlap,
    )
