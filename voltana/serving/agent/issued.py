"""A decision as plain JSON values, and back: what its label is scored by, as it was issued."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.predictors.conformal.quantile_tracker import read_number
from voltana.promise import Margin, MarginPart, Promise
from voltana.values import Decision, Forecast, Status

if TYPE_CHECKING:
    from collections.abc import Mapping


def to_json(decision: Decision) -> dict[str, Any] | None:
    """What scores the label of a decision; None where nothing does."""
    forecast, promise = decision.forecast, decision.promise
    if forecast is None or forecast.margin is None or promise is None:
        return None
    margin = forecast.margin
    return {
        "status": decision.status.value,
        "clock_mhz": decision.clock_mhz,
        "budget_s": _bounded(decision.budget_s),
        "promise": [
            promise.issuer, promise.sequence, promise.in_force_mhz, promise.fastest_mhz,
        ],
        "clocks_mhz": forecast.clocks_mhz.tolist(),
        "mean_s": [_bounded(mean_s) for mean_s in forecast.mean_s.tolist()],
        "offset_s": margin.offset_s,
        "weight": margin.weight,
        "parts": [
            [part.from_mhz, part.group, _bounded(part.quantile), part.certifiable, part.updates]
            for part in margin.parts
        ],
    }  # fmt: skip


def from_json(values: Mapping[str, Any] | None) -> Decision | None:
    """Read what `to_json` wrote; its forecast has no upper bound any more, for none is asked.

    Raises:
        KeyError: If a key is missing.
        TypeError: If a value is of another kind.
        ValueError: If a value cannot be one of a decision.
    """
    if values is None:
        return None
    issuer, sequence, in_force_mhz, fastest_mhz = values["promise"]
    clocks_mhz = np.array(values["clocks_mhz"], dtype=np.float64)
    mean_s = np.array([_unbounded(mean) for mean in values["mean_s"]], dtype=np.float64)
    if clocks_mhz.shape != mean_s.shape or not values["parts"] or not in_force_mhz > 0:
        raise ValueError("a decision needs clocks, a mean at each, and a margin")
    if not (np.isfinite(clocks_mhz).all() and (np.diff(clocks_mhz) > 0).all()):
        raise ValueError("clocks ascend")
    weight, offset_s = read_number(values["weight"], 0.0), read_number(values["offset_s"], 0.0)
    parts = tuple(
        MarginPart(
            from_mhz=float(from_mhz), group=str(group), quantile=_unbounded(quantile),
            certifiable=bool(certifiable), updates=int(updates),
        )
        for from_mhz, group, quantile, certifiable, updates in values["parts"]
    )  # fmt: skip
    margin = Margin(parts=parts, offset_s=offset_s, weight=weight)
    return Decision(
        clock_mhz=float(values["clock_mhz"]),
        reason="restored",
        status=Status(values["status"]),
        forecast=Forecast(
            clocks_mhz=clocks_mhz,
            mean_s=mean_s,
            upper_s=np.full_like(mean_s, math.inf),
            margin=margin,
        ),
        budget_s=_unbounded(values["budget_s"]),
        promise=Promise(
            issuer=str(issuer),
            sequence=int(sequence),
            in_force_mhz=float(in_force_mhz),
            fastest_mhz=float(fastest_mhz),
        ),
    )


def _bounded(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _unbounded(value: float | None) -> float:
    return math.inf if value is None else read_number(value, -math.inf)
