"""Time of attention: prefill by query-key pairs, decode by the KV cache read.

Both are affine in pairs or cached tokens for given counts of tokens or requests, part by part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.cost import Cost

if TYPE_CHECKING:
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.operators import Attention
    from voltana.values import FloatArray

_TILE = 128
"""Queries that one block of a prefill kernel works on; also the head width of the calibration."""

_SHARING_HEADS = 64
"""Query heads that one tile of a decode kernel can hold, and that share what it reads."""

_ELEMENT_BYTES = 2.0


def prefill_cost(
    hardware: HardwareProfile, attention: Attention, tokens: FloatArray, pairs: FloatArray
) -> Cost:
    """Cost of causal attention over `pairs` query-key pairs of `tokens` new tokens.

    On top of the pairs, each query computes half a tile beyond the diagonal.
    """
    fit = hardware.attention_prefill
    flops_per_pair = 4.0 * attention.heads * attention.head_dim
    computed = flops_per_pair * (pairs + 0.5 * _TILE * tokens)
    passes = fit.query_passes * attention.heads + fit.kv_passes * attention.kv_heads
    width = 2.0 * attention.head_dim * _ELEMENT_BYTES
    moved = tokens * width * (attention.heads + attention.kv_heads)
    count, bandwidth = attention.count, hardware.memory_bandwidth
    return Cost(
        kind="attention_prefill",
        flops=count * flops_per_pair * pairs,
        bytes=count * moved,
        compute_s=count * computed / (hardware.peak_at_max("bf16") * fit.efficiency),
        memory_s=count * tokens * width * passes / bandwidth,
        serial_s=count * fit.kernel_s * np.asarray(tokens > 0, dtype=float),
    )


def decode_cost(
    hardware: HardwareProfile, attention: Attention, requests: FloatArray, kv_tokens: FloatArray
) -> Cost:
    """Cost of one new token for each of `requests`, over `kv_tokens` cached tokens in all.

    The unit of work is one KV head of one request, whose query heads share what is read. Units
    are spread evenly over the SMs (a few long ones are split), and the cache streams through memory
    meanwhile.
    """
    fit = hardware.attention_decode
    width = attention.head_dim * attention.kv_dtype_bytes
    waves = requests * attention.kv_heads / hardware.sm_count
    passes = np.ceil(attention.heads / attention.kv_heads / _SHARING_HEADS)
    token_s = passes * fit.token_s * width / (_TILE * _ELEMENT_BYTES)
    busy = token_s * kv_tokens * attention.kv_heads / hardware.sm_count
    start = fit.unit_s * np.where(waves > 0, np.maximum(waves, 1.0), 0.0)
    moved = 2.0 * attention.count * kv_tokens * attention.kv_heads * width
    return Cost(
        kind="attention_decode",
        flops=4.0 * attention.count * kv_tokens * attention.heads * attention.head_dim,
        bytes=moved,
        compute_s=fit.backend_sm_share * attention.count * (busy + start),
        memory_s=moved / (hardware.memory_bandwidth * fit.bandwidth_share),
        serial_s=attention.count * fit.kernel_s * np.asarray(requests > 0, dtype=float),
        overlap=fit.overlap,
    )
