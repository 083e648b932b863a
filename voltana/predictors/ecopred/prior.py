"""What physics says of latency before anything was measured: a roofline of published numbers.

Arithmetic takes the model's FLOP over the peak rate, memory traffic its bytes over the peak
bandwidth, each at an efficiency that LLM kernels usually reach. The result is rough on purpose, and
comes with its uncertainty; no coefficient was fitted to the simulated plant. Roofline: Williams,
Waterman, Patterson (2009); FLOP and bytes of a transformer: Pope et al. (arXiv 2211.05102).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from voltana.errors import ConfigError, invalid
from voltana.predictors.ecopred.features import (
    CLOCK_BASES,
    DECODE_NAMES,
    DECODE_USUAL,
    FEATURES,
    HALF_TILE,
    PREFILL_USUAL,
    TILE,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.values import FloatArray


class _Needed(TypedDict):
    peak_flops: float
    memory_bandwidth_bytes_per_s: float
    max_clock_mhz: float
    tensor_parallel: float
    weight_bytes: float
    active_parameters: float
    kv_bytes_per_token: float
    layers: float
    hidden_size: float
    attention_width: float


class Datasheet(_Needed, total=False):
    """Published numbers of one instance: all its devices together, and the model it serves.

    Attributes:
        peak_flops: Dense peak at the weights' dtype, FLOP/s, summed over devices.
        memory_bandwidth_bytes_per_s: Peak bandwidth, summed over devices.
        max_clock_mhz: Fastest supported SM clock.
        tensor_parallel: Devices that share each layer.
        weight_bytes: Weights in memory.
        active_parameters: Parameters that one token multiplies with.
        kv_bytes_per_token: Keys and values of one token, all layers.
        layers: Transformer layers.
        hidden_size: Width of the residual stream.
        attention_width: Query heads times their width.
        expert_share: Share of the experts of a layer that a token uses; absent of a dense model.
        expert_bytes: Weights of all these experts, which `weight_bytes` includes; absent likewise.
    """

    expert_share: float
    expert_bytes: float


COMPUTE_EFFICIENCY = 0.7
"""Share of the peak that large matrix products usually reach."""

ATTENTION_EFFICIENCY = 0.4
"""Share of the peak that prefill attention usually reaches."""

BANDWIDTH_EFFICIENCY = 0.8
"""Share of the peak bandwidth that weights and KV cache are usually read with."""

KERNEL_S = 5e-6
"""Start and end of a kernel, during which the device waits."""

KERNELS_PER_LAYER = 10

ALL_REDUCE_S = 1e-5
"""Latency of a sum over the devices of a group; two a layer."""

ACTIVATION_PASSES = 20
"""How often each activation of a layer goes through memory."""

SLOW_MEMORY_SHARE = 0.3
"""Growth of a memory-bound time per unit of f_max / f beyond the knee; physics allows 0 to 1."""

BASIS_UNCERTAINTY = (0.2, 0.5, 0.2)
"""Uncertainty of each clock basis, as a share of the largest time that a feature could explain.

Efficiency of arithmetic varies more from kernel to kernel than that of streaming memory.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Prior:
    """Coefficients of one phase and how far they may be off.

    Attributes:
        mean: Seconds per unit of each of `voltana.predictors.ecopred.features`, shape (FEATURES,).
        deviation: Their standard deviations, likewise.
        relative_error: Guess of the residuals' size over the latency, once the coefficients fit;
            None where there is none: no bound is then given before some labels have come.
        tried_mhz: Slowest and fastest clock at which it was measured; None for a guess.
        expert_share: Share of the experts that a token uses; 0 of a dense model.
    """

    mean: FloatArray
    deviation: FloatArray
    relative_error: float | None
    tried_mhz: tuple[float, float] | None = None
    expert_share: float = 0.0

    def __repr__(self) -> str:
        return f"Prior(relative_error={self.relative_error}, tried_mhz={self.tried_mhz})"


def check_datasheet(datasheet: Mapping[str, float]) -> None:
    """Raise a `ConfigError` for the first number that is missing or outside its range."""
    for key in _Needed.__annotations__:
        if key not in datasheet:
            raise ConfigError(
                f"datasheet.{key} is missing: must be given with "
                f"{', '.join(_Needed.__annotations__)}. "
                "Look it up in the device's datasheet or the model's config.json."
            )
        if not 0 < datasheet[key] < float("inf"):
            raise invalid(f"datasheet.{key}", datasheet[key], "above 0", "Look it up again.")
    most = {"expert_share": 1.0, "expert_bytes": datasheet["weight_bytes"]}
    for key, value in most.items():
        if not 0 <= datasheet.get(key, 0.0) <= value:
            remedy = "Leave both out for a dense model."
            raise invalid(f"datasheet.{key}", datasheet[key], f"0 to {value:g}", remedy)


def prefill_prior(datasheet: Mapping[str, float]) -> Prior:
    """Prior of prefill iterations.

    Raises:
        ConfigError: If the datasheet lacks a number.
    """
    check_datasheet(datasheet)
    d = datasheet
    token_s = 2 * d["active_parameters"] / (d["peak_flops"] * COMPUTE_EFFICIENCY)
    pair_s = 4 * d["layers"] * d["attention_width"] / (d["peak_flops"] * ATTENTION_EFFICIENCY)
    memory_token_s = 2 * ACTIVATION_PASSES * d["layers"] * d["hidden_size"] / _bandwidth(d)
    weights_s = d["weight_bytes"] / _bandwidth(d)
    constant = [_all_reduces_s(d), memory_token_s, 0.0, 0.0, 0.0, 0.0]
    compute = [_kernels_s(d), 0.7 * token_s, 0.0, 0.3 * token_s * TILE, 0.0, pair_s]
    slow = [0.0, SLOW_MEMORY_SHARE * memory_token_s, 0.0, 0.0, 0.0, 0.0]
    largest = [weights_s, token_s, token_s * HALF_TILE, token_s * TILE, weights_s, pair_s]
    return _prior([constant, compute, slow], largest, d)


def decode_prior(datasheet: Mapping[str, float]) -> Prior:
    """Prior of decode iterations.

    Raises:
        ConfigError: If the datasheet lacks a number.
    """
    check_datasheet(datasheet)
    d = datasheet
    weights_s = d["weight_bytes"] / _bandwidth(d)
    experts_s = _experts_s(d)
    kv_s = d["kv_bytes_per_token"] / _bandwidth(d)
    tile_s = 2 * d["active_parameters"] * TILE / (d["peak_flops"] * COMPUTE_EFFICIENCY)
    row_s = 2 * ACTIVATION_PASSES * d["layers"] * d["hidden_size"] / _bandwidth(d)
    streamed = (weights_s - experts_s, row_s, 0.0, 0.0, experts_s, kv_s)
    constant = [streamed[0] + _all_reduces_s(d), *streamed[1:]]
    compute = [_kernels_s(d), 0.0, 0.0, 0.5 * tile_s, 0.0, 0.0]
    slow = [SLOW_MEMORY_SHARE * v for v in streamed]
    largest = [weights_s, max(row_s, tile_s / TILE), 0.5 * tile_s, tile_s, weights_s, kv_s]
    return _prior([constant, compute, slow], largest, d)


def flat_prefill_prior() -> Prior:
    """Prior of prefill that knows nothing but signs and the order of magnitude of latency."""
    return _flat_prior(1.0, PREFILL_USUAL)


def flat_decode_prior() -> Prior:
    """Prior of decode that knows nothing but signs and the order of magnitude of latency."""
    return _flat_prior(0.1, DECODE_USUAL)


def beside_prior() -> Prior:
    """Prior of what decoding requests cost more beside prompts: nothing, but who knows.

    Rows and cached tokens alone may cost more: a batch is one pass with the tiles of all its rows.
    """
    flat = flat_decode_prior()
    may_cost = np.array([name in {"padded_requests", "kv_tokens"} for name in DECODE_NAMES])
    deviation = np.where(np.tile(may_cost, CLOCK_BASES), flat.deviation, 0.0)
    return Prior(mean=flat.mean, deviation=deviation, relative_error=None)


def _flat_prior(largest_s: float, usual: tuple[float, ...]) -> Prior:
    """No feature, at a usual value of it, is likely to explain more than `largest_s`."""
    deviation = largest_s / np.array(usual * CLOCK_BASES)
    return Prior(mean=np.zeros(FEATURES), deviation=deviation, relative_error=None)


def _prior(rows: list[list[float]], largest: list[float], datasheet: Mapping[str, float]) -> Prior:
    mean = np.array(rows, dtype=np.float64).reshape(FEATURES)
    scale = np.outer(BASIS_UNCERTAINTY, largest).reshape(FEATURES)
    return Prior(
        mean=mean,
        deviation=np.maximum(0.5 * mean, scale),
        relative_error=0.1,
        expert_share=datasheet.get("expert_share", 0.0),
    )


def _experts_s(datasheet: Mapping[str, float]) -> float:
    """Time to read all experts; without the share that a token uses it is part of the weights'."""
    if not datasheet.get("expert_share", 0.0):
        return 0.0
    return datasheet.get("expert_bytes", 0.0) / _bandwidth(datasheet)


def _bandwidth(datasheet: Mapping[str, float]) -> float:
    return datasheet["memory_bandwidth_bytes_per_s"] * BANDWIDTH_EFFICIENCY


def _kernels_s(datasheet: Mapping[str, float]) -> float:
    return datasheet["layers"] * KERNELS_PER_LAYER * KERNEL_S


def _all_reduces_s(datasheet: Mapping[str, float]) -> float:
    return 2 * datasheet["layers"] * ALL_REDUCE_S if datasheet["tensor_parallel"] > 1 else 0.0
