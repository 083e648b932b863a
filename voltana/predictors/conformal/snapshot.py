"""A frozen conformal bound, as routers see it, and how a margin becomes a bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.promise import Margin, MarginPart
from voltana.values import Forecast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.ports import PredictorSnapshot
    from voltana.values import FloatArray, Load


def bounded(forecast: Forecast, margin: Margin, widened: float = 0.0) -> Forecast:
    """`forecast` with the upper bound that `margin` gives it.

    The bound is infinite where the margin may not certify, and where the forecast's own is.

    Args:
        forecast: Its mean stands, and is shared.
        margin: What is issued.
        widened: The least margin that bounds are issued with.
    """
    mean_s, clocks_mhz = forecast.mean_s, forecast.clocks_mhz
    if len(margin.parts) == 1:
        quantile: float | FloatArray = _open(margin.parts[0], widened)
    else:
        starts = np.array([part.from_mhz for part in margin.parts[1:]])
        quantiles = np.array([_open(part, widened) for part in margin.parts])
        quantile = quantiles[np.searchsorted(starts, clocks_mhz, side="right")]
    upper_s = mean_s + margin.offset_s
    upper_s *= quantile
    upper_s += mean_s
    # A slow or unknown end of the forecast is bounded by nothing that was learned.
    np.copyto(upper_s, math.inf, where=forecast.upper_s == math.inf)
    if margin.parts[0].quantile < 0.0 or len(margin.parts) > 1:
        np.maximum(upper_s, mean_s, out=upper_s)
    return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=upper_s, margin=margin)


def _open(part: MarginPart, widened: float) -> float:
    return max(part.quantile, widened) if part.certifiable else math.inf


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConformalSnapshot:
    """Satisfies `voltana.ports.PredictorSnapshot`; it forecasts, and issues no promise.

    Attributes:
        predictor: Snapshot of the wrapped predictor.
        quantiles: Margin of each group, and of new ones under an empty name; empty while cold.
        q_cert: Greatest margin that certifies.
        widened: The least margin that bounds are issued with.
        offset_s: m0.
        group: Names the group of a load.
        edges_mhz: Clocks that part each group further.
    """

    predictor: PredictorSnapshot
    quantiles: Mapping[str, float]
    q_cert: float
    widened: float
    offset_s: float
    group: Callable[[Load], str]
    edges_mhz: tuple[float, ...]

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        name = self.group(load)
        if not self.edges_mhz:
            parts: tuple[MarginPart, ...] = (self._part(name, 0.0),)
        else:
            parts = tuple(
                self._part(f"{name} from {start:g} MHz", start) for start in (0.0, *self.edges_mhz)
            )
        made = bounded(
            self.predictor.forecast(load, clocks_mhz),
            Margin(parts=parts, offset_s=self.offset_s),
            self.widened,
        )
        return Forecast(clocks_mhz=made.clocks_mhz, mean_s=made.mean_s, upper_s=made.upper_s)

    def to_dict(self) -> Mapping[str, object]:
        """Plain JSON values: the predictor's, and the margins by group."""
        return {
            "predictor": dict(self.predictor.to_dict()),
            "quantiles": dict(self.quantiles),
            "q_cert": self.q_cert,
            "widened": self.widened,
            "offset_s": self.offset_s,
            "edges_mhz": list(self.edges_mhz),
        }

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, object],
        predictor: PredictorSnapshot,
        group: Callable[[Load], str],
    ) -> ConformalSnapshot:
        """Read what `to_dict` wrote.

        Args:
            values: What it wrote.
            predictor: The wrapped snapshot, read from ``values["predictor"]`` by its own class.
            group: Names the group of a load, as it did there.

        Raises:
            KeyError: If a key is missing.
            TypeError: If a value is of another kind.
        """
        quantiles, edges = values["quantiles"], values["edges_mhz"]
        if not (isinstance(quantiles, dict) and isinstance(edges, list)):
            raise TypeError("quantiles must be a table and edges_mhz a list")
        return cls(
            predictor=predictor,
            quantiles=quantiles,
            q_cert=float(str(values["q_cert"])),
            widened=float(str(values["widened"])),
            offset_s=float(str(values["offset_s"])),
            group=group,
            edges_mhz=tuple(edges),
        )

    def _part(self, group: str, from_mhz: float) -> MarginPart:
        quantile = self.quantiles.get(group, self.quantiles.get("", math.inf))
        return MarginPart(
            from_mhz=from_mhz,
            group=group,
            quantile=quantile,
            certifiable=quantile <= self.q_cert,
        )
