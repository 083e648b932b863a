"""Latency models through which a law for one phase sees what the other one takes of its time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.planning import in_batches
from voltana.ports import Predictor
from voltana.values import Forecast, Load
from voltana.viability import forecast_batches

if TYPE_CHECKING:
    from voltana.ports import Forecasts
    from voltana.values import FloatArray, Table


class DecodeCycles:
    """Decode iterations stretched to cycles, from token to token: prompts come between.

    Args:
        predictor: Latency model of iterations.
        levels_mhz: Clocks that `stretch` is known for, ascending, shape (l,).

    Attributes:
        stretch: A cycle over its decode iteration at every level, shape (l,); 1 without prompts.
    """

    def __init__(self, predictor: Predictor, levels_mhz: FloatArray) -> None:
        self.stretch: FloatArray = np.ones(len(levels_mhz))
        self._predictor = predictor
        self._levels = levels_mhz

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        made = self._predictor.forecast(load, clocks_mhz)
        stretch = self._at(clocks_mhz)
        return Forecast(
            clocks_mhz=clocks_mhz, mean_s=made.mean_s * stretch, upper_s=made.upper_s * stretch
        )

    def forecast_batches(
        self, requests: FloatArray, kv_tokens: FloatArray, clocks_mhz: FloatArray
    ) -> tuple[Table, Table]:
        """See `voltana.ports.TellsBatches`."""
        frozen = self._predictor.snapshot() if isinstance(self._predictor, Predictor) else None
        model: Forecasts = frozen or self._predictor
        mean_s, upper_s = forecast_batches(model, requests, kv_tokens, clocks_mhz)
        stretch = self._at(clocks_mhz)
        return mean_s * stretch, upper_s * stretch

    def _at(self, clocks_mhz: FloatArray) -> FloatArray:
        if len(clocks_mhz) == len(self._levels):
            return self.stretch
        stretch: FloatArray = np.interp(clocks_mhz, self._levels, self.stretch)
        return stretch


class PromptsBeside:
    """Batches of prompts beside which requests decode, where the engine mixes them.

    What does not fit one batch is computed in several, each with its decode beside.

    Args:
        predictor: Latency model.
        most_tokens: Tokens of one batch, those that are decoded beside included.

    Attributes:
        decode: What is decoded beside every batch of prompts; nothing where batches do not mix.
    """

    def __init__(self, predictor: Predictor, most_tokens: float = math.inf) -> None:
        self.decode = Load()
        self._predictor = predictor
        self._most_tokens = most_tokens

    def note(self, load: Load) -> None:
        """Note a batch as the engine forms it: that much fits."""
        mixed = load.prefill_tokens > 0 and load.decode_requests > 0
        self.decode = load if mixed else Load()
        if load.prefill_tokens:
            self._most_tokens = max(self._most_tokens, load.prefill_tokens + load.decode_requests)

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        beside = self.decode
        most_tokens = max(self._most_tokens - beside.decode_requests, 1.0)
        batches, each = in_batches(load, most_tokens)
        if batches > 1.0 or (beside.decode_requests and not load.decode_requests):
            each = Load(
                prefill_tokens=each.prefill_tokens,
                prefill_attended_pairs=each.prefill_attended_pairs,
                decode_requests=beside.decode_requests,
                decode_kv_tokens=beside.decode_kv_tokens,
            )
        made = self._predictor.forecast(each, clocks_mhz)
        if not batches > 1.0:
            return made
        return Forecast(
            clocks_mhz=clocks_mhz, mean_s=batches * made.mean_s, upper_s=batches * made.upper_s
        )

    def learn(self, outcome: object) -> None:
        """Nothing: the loop teaches the model itself."""

    def snapshot(self) -> object:
        """That of the model."""
        return self._predictor.snapshot()
