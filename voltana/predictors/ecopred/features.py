"""Regressors of the latency model: what an iteration computes, times what the clock does to it.

Latency is ``sum over i, j of W[i, j] * basis_i(clock) * load_j``, linear in W. The load part is a
handful of physical quantities; the clock part is three fixed bases, so that every clock shares what
is learned at any other:

- 1: memory traffic and host overhead, which the SM clock does not change;
- s = f_max / f: arithmetic;
- max(0, s - KNEE): what memory traffic loses at low clocks, where the SMs no longer saturate it,
  and arithmetic that overtakes the memory traffic it hides behind.

All are non-negative and fall with the clock, so non-negative W make latency fall with it as well.

Of a mixture of experts an iteration reads those alone that some token has chosen. If a token uses
a share p of them, n tokens leave (1 - p)^n of them untouched: a request more costs a lot while the
batch is small, and next to nothing once most experts are read anyway. A line through small batches
would take a batch of 64 for twice as long as it is. Dense models have no experts, and p = 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.values import FloatArray, Load

Basis = np.ndarray[tuple[int, int], np.dtype[np.float64]]

SMALL_TILE = 8
"""Decode batches are padded to multiples of this (captured CUDA graphs)."""

HALF_TILE = 64
"""Rows of the smaller GEMM tiles, which libraries choose for small batches."""

TILE = 128
"""Rows of a GEMM tile: the published batch-tile step (arXiv 2509.04827)."""

KNEE = 1.4
"""f_max / f from which memory traffic may depend on the SM clock; about 1005 of 1410 MHz."""

CLOCK_BASES = 3
LOAD_FEATURES = 6
FEATURES = CLOCK_BASES * LOAD_FEATURES

EXPERTS = "experts"
PREFILL_NAMES = ("iteration", "tokens", "half_tiles", "tiles", EXPERTS, "attended_pairs")
DECODE_NAMES = ("iteration", "padded_requests", "half_tiles", "tiles", EXPERTS, "kv_tokens")
BASIS_NAMES = ("constant", "compute", "slow_memory")

PREFILL_USUAL = (1.0, 4096.0, 64.0, 32.0, 1.0, 1e7)
"""A usual value of each load feature of prefill; over it, features are of a size near 1."""

DECODE_USUAL = (1.0, 128.0, 2.0, 1.0, 1.0, 2e5)
"""A usual value of each load feature of decode."""


def product_names(phase: str, load_names: Sequence[str]) -> tuple[str, ...]:
    """Names of the products that `regressor` yields, in its order."""
    return tuple(f"{phase}.{basis}.{name}" for basis in BASIS_NAMES for name in load_names)


PREFILL_PRODUCTS = product_names("prefill", PREFILL_NAMES)
DECODE_PRODUCTS = product_names("decode", DECODE_NAMES)
BESIDE_PRODUCTS = product_names("beside", DECODE_NAMES)
"""What requests that decode beside prompts cost more than elsewhere."""


def prefill_features(tokens: int, attended_pairs: float, expert_share: float = 0.0) -> list[float]:
    """One iteration, its new tokens, the GEMM tiles that they fill, experts, and attended pairs.

    Args:
        tokens: New ones.
        attended_pairs: Pairs of a new token and one that it attends to.
        expert_share: Share of the experts that a token uses; 0 of a dense model.
    """
    read = 1.0 - (1.0 - expert_share) ** tokens if expert_share else 0.0
    return [1.0, tokens, -(-tokens // HALF_TILE), -(-tokens // TILE), read, attended_pairs]


def decode_features(requests: int, kv_tokens: int, expert_share: float = 0.0) -> list[float]:
    """One iteration, its rows, the GEMM tiles that they fill, experts, and tokens in the KV cache.

    Args:
        requests: Of the batch.
        kv_tokens: In their KV cache.
        expert_share: Share of the experts that a token uses; 0 of a dense model.
    """
    rows = -(-requests // SMALL_TILE) * SMALL_TILE
    read = 1.0 - (1.0 - expert_share) ** requests if expert_share else 0.0
    return [1.0, rows, -(-requests // HALF_TILE), -(-requests // TILE), read, kv_tokens]


def decode_features_of(
    requests: FloatArray, kv_tokens: FloatArray, expert_share: float = 0.0
) -> Basis:
    """`decode_features` of many batches, shape (LOAD_FEATURES, b)."""
    features: Basis = np.empty((LOAD_FEATURES, len(requests)))
    features[0] = 1.0
    for row, tile in ((1, SMALL_TILE), (2, HALF_TILE), (3, TILE)):
        np.ceil(requests / tile, out=features[row])
    features[1] *= SMALL_TILE
    features[4] = 1.0 - (1.0 - expert_share) ** requests if expert_share else 0.0
    features[5] = kv_tokens
    return features


def clock_basis(clocks_mhz: FloatArray, max_clock_mhz: float) -> Basis:
    """The three bases at every clock.

    Args:
        clocks_mhz: Shape (n,).
        max_clock_mhz: Clock at which s is 1.

    Returns:
        Shape (3, n).
    """
    slow = max_clock_mhz / clocks_mhz
    return np.stack([np.ones_like(slow), slow, np.maximum(slow - KNEE, 0.0)])


def basis_at(clock_mhz: float, max_clock_mhz: float) -> tuple[float, float, float]:
    """`clock_basis` at one clock, as plain numbers."""
    slow = max_clock_mhz / clock_mhz
    return 1.0, slow, slow - KNEE if slow > KNEE else 0.0


def bound_basis(
    clocks_mhz: FloatArray, max_clock_mhz: float, slowest_mhz: float, fastest_mhz: float
) -> Basis:
    """Bases of a latency bound that relies on the model only at clocks that were tried.

    Beyond them it relies on physics: at a faster clock an iteration takes no longer than at the
    fastest one tried, and at a slower clock f no longer than f_tried / f times as long.

    Args:
        clocks_mhz: Shape (n,).
        max_clock_mhz: Clock at which s is 1.
        slowest_mhz: Slowest clock that was tried.
        fastest_mhz: Fastest clock that was tried.

    Returns:
        Shape (3, n).
    """
    tried = np.clip(clocks_mhz, slowest_mhz, fastest_mhz)
    stretch = np.maximum(slowest_mhz / clocks_mhz, 1.0)
    basis: Basis = clock_basis(tried, max_clock_mhz) * stretch
    return basis


def regressor(load: Sequence[float], clock_mhz: float, max_clock_mhz: float) -> FloatArray:
    """`products` of all load features, shape (FEATURES,); written out, as every label needs it."""
    _, slow, low = basis_at(clock_mhz, max_clock_mhz)
    a, b, c, d, e, f = load
    return np.array(
        [
            a, b, c, d, e, f,
            slow * a, slow * b, slow * c, slow * d, slow * e, slow * f,
            low * a, low * b, low * c, low * d, low * e, low * f,
        ],
        np.float64,
    )  # fmt: skip


def products(load: Sequence[float], clock_mhz: float, max_clock_mhz: float) -> list[float]:
    """Products of every basis with every load feature, or with some, bases outermost."""
    return [basis * value for basis in basis_at(clock_mhz, max_clock_mhz) for value in load]


def mixed_parts(
    load: Load, expert_share: float = 0.0
) -> tuple[list[float], list[float], list[float]]:
    """A mixed batch: one GEMM pass over all its rows, the reading of the decode KV cache, and more.

    An attention kernel made for prompts may take far longer for the one row of a decoding request
    than one made for decode: 2.8 ms a request were measured (docs/gpu.md).

    Args:
        load: The batch.
        expert_share: Share of the experts that a token uses; 0 of a dense model.

    Returns:
        Features for the prefill model, for the decode model, and for that of what is on top.
    """
    rows, requests, kv_tokens = (
        load.prefill_tokens + load.decode_requests,
        load.decode_requests,
        load.decode_kv_tokens,
    )
    return (
        prefill_features(rows, load.prefill_attended_pairs, expert_share),
        [0.0, 0.0, 0.0, 0.0, 0.0, kv_tokens],
        [0.0, requests, 0.0, 0.0, 0.0, kv_tokens],
    )
