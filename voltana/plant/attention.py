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

_SPLIT_WAVES = 0.3
"""Units for each SM below which kernels split the cache so that every SM has work."""

_ELEMENT_BYTES = 2.0


def prefill_cost(
    hardware: HardwareProfile, attention: Attention, tokens: FloatArray, pairs: FloatArray
) -> Cost:
    """Cost of causal attention over `pairs` query-key pairs of `tokens` new tokens.

    On top of the pairs, each query computes half a tile beyond the diagonal. The chain term is
    that of a prompt of mean length, which follows from pairs and tokens.
    """
    fit = hardware.attention_prefill
    new = np.maximum(tokens, 1.0)
    flops_per_pair = 4.0 * attention.heads * attention.head_dim
    computed = flops_per_pair * (pairs + 0.5 * _TILE * tokens)
    chain = fit.chain_s * np.maximum(2.0 * pairs / new - 1.0, 0.0) * attention.head_dim / _TILE
    passes = fit.query_passes * attention.heads + fit.kv_passes * attention.kv_heads
    width = 2.0 * attention.head_dim * _ELEMENT_BYTES
    moved = tokens * width * (attention.heads + attention.kv_heads)
    count, bandwidth = attention.count, hardware.memory_bandwidth
    throughput = computed / (hardware.peak_at_max("bf16") * fit.efficiency)
    return Cost(
        kind="attention_prefill",
        flops=count * flops_per_pair * pairs,
        bytes=count * moved,
        compute_s=count * (throughput + chain),
        memory_s=count * tokens * width * passes / bandwidth,
        serial_s=count * fit.kernel_s * np.asarray(tokens > 0, dtype=float),
    )


def decode_cost(
    hardware: HardwareProfile, attention: Attention, requests: FloatArray, kv_tokens: FloatArray
) -> Cost:
    """Cost of one new token for each of `requests`, over `kv_tokens` cached tokens in all.

    The unit of work is one KV head of one request, whose query heads share what is read. Units
    are spread over the SMs, and the cache streams through memory meanwhile. A few units are split
    over all SMs; many leave the last SMs idle for half of a mean unit.
    """
    fit = hardware.attention_decode
    width = attention.head_dim * attention.kv_dtype_bytes
    waves = requests * attention.kv_heads / hardware.sm_count
    mean_kv = kv_tokens / np.maximum(requests, 1.0)
    token_s = fit.token_s * width / (_TILE * _ELEMENT_BYTES)
    tail = 0.5 * np.clip(waves / _SPLIT_WAVES - 1.0, 0.0, 1.0)
    busy = token_s * mean_kv * (waves + tail)
    start = fit.unit_s * np.where(waves > 0, np.maximum(waves, 1.0), 0.0)
    moved = 2.0 * attention.count * kv_tokens * attention.kv_heads * width
    return Cost(
        kind="attention_decode",
        flops=4.0 * attention.count * kv_tokens * attention.heads * attention.head_dim,
        bytes=moved,
        compute_s=attention.count * (busy + start),
        memory_s=moved / (hardware.memory_bandwidth * fit.bandwidth_share),
        serial_s=attention.count * fit.kernel_s * np.asarray(requests > 0, dtype=float),
        overlap=fit.overlap,
    )
