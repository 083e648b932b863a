"""Remembers the clock bases of the grids, and the features of the batches, asked for last."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana.predictors.ecopred.features import bound_basis, clock_basis, decode_features_of

if TYPE_CHECKING:
    from voltana.predictors.ecopred.features import Basis
    from voltana.values import FloatArray

_CACHED_GRIDS = 16

_CACHED_BATCHES = 256
"""Arrays of requests whose features are remembered: a plan's differ in what memory holds last."""


class GridBases(NamedTuple):
    """The bases of a grid of n clocks, side by side, so that one product answers all at once.

    Attributes:
        means: Those of the mean, and last that at the fastest clock tried; shape (3, n + 1).
        bounds: The same, followed by those of the bound; shape (3, 2 n + 1).
    """

    means: Basis
    bounds: Basis


class BasisCache:
    """The clock bases of the grids that were asked for last; pure functions, remembered.

    Args:
        max_clock_mhz: Clock at which f_max / f is 1.
    """

    __slots__ = ("_batches", "_known", "max_clock_mhz")

    def __init__(self, max_clock_mhz: float) -> None:
        self.max_clock_mhz = max_clock_mhz
        self._known: dict[tuple[bytes, float, float], GridBases] = {}
        # By the array's identity; it is kept as well, so that no other has the same meanwhile.
        self._batches: dict[tuple[int, float], tuple[FloatArray, Basis]] = {}

    def at(self, clocks_mhz: FloatArray, slowest_mhz: float, fastest_mhz: float) -> GridBases:
        """Bases at `clocks_mhz`.

        Args:
            clocks_mhz: Shape (n,).
            slowest_mhz: Slowest clock that was tried.
            fastest_mhz: Fastest clock that was tried.
        """
        key = (clocks_mhz.tobytes(), slowest_mhz, fastest_mhz)
        bases = self._known.get(key)
        if bases is None:
            if len(self._known) >= _CACHED_GRIDS:
                self._known.clear()
            asked = np.append(clocks_mhz, fastest_mhz)
            means = clock_basis(asked, self.max_clock_mhz)
            bound = bound_basis(clocks_mhz, self.max_clock_mhz, slowest_mhz, fastest_mhz)
            bases = self._known[key] = GridBases(means, np.hstack([means, bound]))
        return bases

    def decode_features(
        self, requests: FloatArray, kv_tokens: FloatArray, expert_share: float
    ) -> Basis:
        """`decode_features_of`; of the same array of requests for less, if it is read-only."""
        key = (id(requests), expert_share)
        known = self._batches.get(key)
        if known is None:
            features = decode_features_of(requests, kv_tokens, expert_share)
            if requests.flags.writeable:
                return features
            if len(self._batches) >= _CACHED_BATCHES:
                self._batches.clear()
            known = self._batches[key] = requests, features
        features = known[1].copy()
        features[-1] = kv_tokens
        return features

    def __reduce__(self) -> tuple[type[BasisCache], tuple[float]]:
        # A copy starts empty: what is remembered can be computed again.
        return (BasisCache, (self.max_clock_mhz,))
