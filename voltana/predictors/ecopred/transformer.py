"""The features of the latency model as a river transformer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from river import base

from voltana.errors import invalid
from voltana.predictors.ecopred.features import (
    BESIDE_PRODUCTS,
    DECODE_NAMES,
    DECODE_PRODUCTS,
    DECODE_USUAL,
    LOAD_FEATURES,
    PREFILL_PRODUCTS,
    PREFILL_USUAL,
    decode_features,
    mixed_parts,
    prefill_features,
    products,
)
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from river.base.typing import FeatureName

_KV_TOKENS = DECODE_NAMES.index("kv_tokens")
_BESIDE = (DECODE_NAMES.index("padded_requests"), _KV_TOKENS)

LOAD_FIELDS = tuple(Load.__dataclass_fields__)
"""What an iteration is told by, beside its clock."""

FIELDS = (*LOAD_FIELDS, "clock_mhz")
"""What an iteration is told by, as river's dictionaries of features name it."""


class LatencyFeatures(base.Transformer):
    """What an iteration computes times what the clock does to it, by name.

    Takes the fields of `voltana.values.Load` and ``clock_mhz``, of which absent ones are 0, and
    leaves out everything else. It yields ``prefill.compute.tokens``, ``decode.constant.kv_tokens``
    and so on, those of the phase that the load belongs to: the very numbers that EcoPred learns
    with. A mixed batch has those of one prefill pass over all its rows, of its KV cache, and
    ``beside.``: of what its decoding requests cost on top.
    Without a clock above 0 the products with it are 0.

    Args:
        max_clock_mhz: Clock at which f_max / f is 1.
        expert_share: Share of the experts that a token uses; 0 of a dense model.
        scaled: Whether to divide each feature by a usual value of it, so that all are of a size
            near 1, as most regressors expect.

    Raises:
        ConfigError: If the clock is not above 0.

    Examples:
        >>> from voltana.predictors import DirectionalLeastSquares, LatencyFeatures
        >>> model = LatencyFeatures() | DirectionalLeastSquares(noise=1e-4)
        >>> for clock_mhz in (705.0, 1005.0, 1410.0):
        ...     x = {"decode_requests": 64, "decode_kv_tokens": 40_000, "clock_mhz": clock_mhz}
        ...     model.learn_one(x, 0.012 + 0.008 * 1410.0 / clock_mhz)
        >>> round(model.predict_one(x), 3)
        0.02
    """

    def __init__(
        self, max_clock_mhz: float = 1410.0, *, expert_share: float = 0.0, scaled: bool = False
    ) -> None:
        if not 0 < max_clock_mhz < math.inf:
            raise invalid("max_clock_mhz", max_clock_mhz, "above 0", "Ask the device for it.")
        if not 0 <= expert_share <= 1:
            raise invalid("expert_share", expert_share, "0 to 1", "0 is that of a dense model.")
        self.max_clock_mhz = max_clock_mhz
        self.expert_share = expert_share
        self.scaled = scaled

    def transform_one(self, x: Mapping[FeatureName, float]) -> dict[FeatureName, float]:
        """Features of the iteration that `x` tells of; none if it computes nothing."""
        load = Load(**{name: x[name] for name in LOAD_FIELDS if name in x})  # type: ignore[arg-type]
        return self.of_load(load, x.get("clock_mhz", 0.0))

    def of_load(self, load: Load, clock_mhz: float) -> dict[FeatureName, float]:
        """Features of `load` at one clock."""
        clock_mhz = clock_mhz if clock_mhz > 0 else math.inf
        made: dict[FeatureName, float] = {}
        for names, values in self._parts(load):
            made.update(zip(names, products(values, clock_mhz, self.max_clock_mhz), strict=True))
        return made

    def _parts(self, load: Load) -> Iterator[tuple[Sequence[str], Sequence[float]]]:
        """Names of products, and the load features that they are the products of."""
        if load.prefill_tokens and load.decode_requests:
            rows, cache, more = mixed_parts(load, self.expert_share)
            yield PREFILL_PRODUCTS, self._sized(rows, PREFILL_USUAL)
            kv_tokens = self._sized(cache, DECODE_USUAL)[_KV_TOKENS]
            yield DECODE_PRODUCTS[_KV_TOKENS::LOAD_FEATURES], [kv_tokens]
            sized = self._sized(more, DECODE_USUAL)
            for part in _BESIDE:
                yield BESIDE_PRODUCTS[part::LOAD_FEATURES], [sized[part]]
        elif load.prefill_tokens:
            features = prefill_features(
                load.prefill_tokens, load.prefill_attended_pairs, self.expert_share
            )
            yield PREFILL_PRODUCTS, self._sized(features, PREFILL_USUAL)
        elif load.decode_requests:
            features = decode_features(
                load.decode_requests, load.decode_kv_tokens, self.expert_share
            )
            yield DECODE_PRODUCTS, self._sized(features, DECODE_USUAL)

    def _sized(self, features: list[float], usual: Sequence[float]) -> list[float]:
        if not self.scaled:
            return features
        return [value / size for value, size in zip(features, usual, strict=True)]
