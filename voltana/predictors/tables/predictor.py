"""The published EcoPred: one latency table for each profiled clock (arXiv 2509.04827).

Prefill latency is ``a * tokens + c``, decode latency ``a * batch + b * kv_tokens + c`` within each
batch tile (steps of 8 up to 128, then of 128), each clock on its own. It knows no bound, so the
upper bound is the mean, and it does not learn online. `profile_tables` beside it measures them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.predictors.ecopred.features import SMALL_TILE, TILE
from voltana.values import Forecast

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from voltana.values import FloatArray, Load, Outcome

PrefillTable = np.ndarray[tuple[int, int], np.dtype[np.float64]]
DecodeTable = np.ndarray[tuple[int, int, int], np.dtype[np.float64]]

SMALL_TILES = TILE // SMALL_TILE


def tile_index(requests: int) -> int:
    """Index of the batch tile of `requests` (at least 1): 0 for 1-8, 16 for 129-256."""
    if requests <= TILE:
        return (requests - 1) // SMALL_TILE
    return SMALL_TILES + (requests - 1) // TILE - 1


def tile_bounds(index: int) -> tuple[int, int]:
    """Smallest and largest batch of a tile."""
    if index < SMALL_TILES:
        return index * SMALL_TILE + 1, (index + 1) * SMALL_TILE
    row = index - SMALL_TILES + 1
    return row * TILE + 1, (row + 1) * TILE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TablePredictor:
    """Tables of profiled clocks; satisfies `voltana.ports.Predictor` and is its own snapshot.

    A clock between two profiled ones is given the table of the slower of them; below all of them
    latency is unknown, that is infinite. So is that of a phase without a table.

    Attributes:
        clocks_mhz: Profiled clocks, ascending, shape (n,).
        prefill: Seconds per token and constant seconds, shape (n, 2); None if not profiled.
        decode: Seconds per request, per KV token, and constant, shape (n, tiles, 3); None likewise.
            Batches beyond the last tile use that one.

    Raises:
        ConfigError: If shapes do not fit or clocks do not ascend.
    """

    clocks_mhz: FloatArray
    prefill: PrefillTable | None = None
    decode: DecodeTable | None = None

    def __post_init__(self) -> None:
        count = self.clocks_mhz.size
        if self.clocks_mhz.ndim != 1 or not count or (np.diff(self.clocks_mhz) <= 0).any():
            raise invalid(
                "clocks_mhz", tuple(self.clocks_mhz), "ascending", "Sort the profiled clocks."
            )
        for name, table, axes in (("prefill", self.prefill, 2), ("decode", self.decode, 3)):
            if table is None:
                continue
            # As many columns as axes: seconds per token, per request and KV token, and constant.
            shape: tuple[int, ...] = table.shape
            if len(shape) != axes or shape[0] != count or shape[-1] != axes or not shape[1]:
                raise invalid(
                    name,
                    shape,
                    f"of shape ({count}, {'tiles, ' * (axes - 2)}{axes})",
                    "Give one table a profiled clock.",
                )

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        profiled = np.empty(len(self.clocks_mhz) + 1)
        profiled[0] = math.inf
        profiled[1:] = self._at_profiled(load)
        mean_s = profiled[self.clocks_mhz.searchsorted(clocks_mhz + 1e-6, side="right")]
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s.copy())

    def learn(self, outcome: Outcome) -> None:
        """Nothing: tables are profiled once."""

    def snapshot(self) -> TablePredictor:
        """Itself, for it never changes."""
        return self

    def to_dict(self) -> Mapping[str, object]:
        """The tables as plain JSON values."""
        return {
            "clocks_mhz": self.clocks_mhz.tolist(),
            "prefill": None if self.prefill is None else self.prefill.tolist(),
            "decode": None if self.decode is None else self.decode.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TablePredictor:
        """Tables that `to_dict` wrote.

        Raises:
            ConfigError: If shapes do not fit or clocks do not ascend.
            KeyError: If one is missing.
            ValueError: If rows differ in length.
        """
        clocks, prefill, decode = (values[name] for name in ("clocks_mhz", "prefill", "decode"))
        return cls(
            clocks_mhz=np.array(clocks, dtype=np.float64),
            prefill=None if prefill is None else np.array(prefill, dtype=np.float64),
            decode=None if decode is None else np.array(decode, dtype=np.float64),
        )

    def _at_profiled(self, load: Load) -> FloatArray:
        total_s = np.zeros(len(self.clocks_mhz))
        if load.prefill_tokens:
            if self.prefill is None:
                return np.full_like(total_s, math.inf)
            total_s += self.prefill.dot([load.prefill_tokens, 1.0])
        if load.decode_requests:
            if self.decode is None:
                return np.full_like(total_s, math.inf)
            tile = min(tile_index(load.decode_requests), self.decode.shape[1] - 1)
            total_s += self.decode[:, tile].dot([load.decode_requests, load.decode_kv_tokens, 1.0])
        return total_s
