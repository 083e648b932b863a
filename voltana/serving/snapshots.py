"""Snapshots of latency and power models on the wire, from an agent to a router.

Snapshots of the library's own predictors are known by kind. A user's own snapshot travels as
``MODULE:CLASS`` and is read by the class's ``from_dict``, but only where the router's own
configuration names that module: what comes over a network must not choose what is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from voltana.ports import PowerSnapshot, PredictorSnapshot
from voltana.predictors.cautious_power import CautiousPowerSnapshot
from voltana.predictors.conformal import BySize, ConformalSnapshot, by_phase, one_group
from voltana.predictors.conformal.margin_book import MAX_GROUPS
from voltana.predictors.ecopred.latency_model import LatencySnapshot
from voltana.predictors.linear_power import LinearPowerSnapshot
from voltana.predictors.tables import TablePredictor
from voltana.serving.bounds import MOST, MOST_MHZ, check_model, number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set

    from voltana.ports import PowerForecasts
    from voltana.values import Load

_WRONG_FORM = (KeyError, TypeError, AttributeError, OverflowError, RecursionError)

_GROUPS: Mapping[str, Callable[[Load], str]] = {"by-phase": by_phase, "one": one_group}


def encode_snapshot(snapshot: PredictorSnapshot | None) -> dict[str, Any] | None:
    """A snapshot as plain values; None for one that cannot be read again."""
    if isinstance(snapshot, LatencySnapshot):
        return {"kind": "latency", "values": dict(snapshot.to_dict())}
    if isinstance(snapshot, TablePredictor):
        return {"kind": "tables", "values": dict(snapshot.to_dict())}
    if isinstance(snapshot, ConformalSnapshot):
        inner, group = encode_snapshot(snapshot.predictor), _encode_group(snapshot.group)
        if inner is None or group is None:
            return None
        values = {**snapshot.to_dict(), "predictor": inner}
        return {"kind": "conformal", "values": values, "group": group}
    return _encode_own(snapshot)


def encode_power(snapshot: PowerForecasts | None) -> dict[str, Any] | None:
    """A power snapshot as plain values; None for one that cannot be read again."""
    if isinstance(snapshot, LinearPowerSnapshot):
        return {"kind": "linear-power", "values": dict(snapshot.to_dict())}
    if isinstance(snapshot, CautiousPowerSnapshot):
        inner = encode_power(snapshot.power)
        values = {"power": inner, "excess": snapshot.excess}
        return None if inner is None else {"kind": "cautious-power", "values": values}
    return _encode_own(snapshot)


def decode_snapshot(encoded: Any, modules: Set[str] = frozenset()) -> PredictorSnapshot | None:
    """Read what `encode_snapshot` wrote.

    Args:
        encoded: What it wrote.
        modules: Modules of users' own snapshots that may be imported.

    Raises:
        ValueError: If it has another form, or names a module that is not allowed.
    """
    if encoded is None:
        return None
    try:
        kind, values = encoded["kind"], encoded["values"]
        if kind == "latency":
            check_model("a latency model", values)
            return LatencySnapshot.from_dict(values)
        if kind == "tables":
            check_model("latency tables", {k: v for k, v in values.items() if v is not None})
            return TablePredictor.from_dict(values)
        if kind == "conformal":
            inner = decode_snapshot(values["predictor"], modules)
            if inner is None:
                raise ValueError("a conformal snapshot wraps nothing")
            check_model("a conformal model", values, infinite=True)  # a cold margin is infinite
            if len(values["edges_mhz"]) >= MAX_GROUPS:
                raise ValueError(f"edges_mhz of a conformal snapshot: must be below {MAX_GROUPS}")
            for margin in (*values["quantiles"].values(), *values["edges_mhz"]):
                number("a margin", margin, -MOST, infinite=True)
            return ConformalSnapshot.from_dict(values, inner, _decode_group(encoded["group"]))
    except _WRONG_FORM as error:
        raise ValueError(f"unknown form of a predictor snapshot: {error!r}") from error
    made = _users_own(str(kind), values, modules)
    if not isinstance(made, PredictorSnapshot):
        raise ValueError(f"{kind!r} has no from_dict() that makes a predictor snapshot")  # noqa: TRY004
    return made


def decode_power(encoded: Any, modules: Set[str] = frozenset()) -> PowerSnapshot | None:
    """Read what `encode_power` wrote; see `decode_snapshot`.

    Raises:
        ValueError: If it has another form, or names a module that is not allowed.
    """
    if encoded is None:
        return None
    try:
        kind, values = encoded["kind"], encoded["values"]
        if kind == "linear-power":
            check_model("a power model", values)
            number("max_clock_mhz", values["max_clock_mhz"], 1.0, MOST_MHZ)
            return LinearPowerSnapshot.from_dict(values)
        if kind == "cautious-power":
            inner = decode_power(values["power"], modules)
            if inner is None or isinstance(inner, CautiousPowerSnapshot):
                raise ValueError("a cautious power snapshot wraps nothing, or another one")
            excess = number("excess", values["excess"])
            return CautiousPowerSnapshot(power=inner, excess=excess)
    except _WRONG_FORM as error:
        raise ValueError(f"unknown form of a power snapshot: {error!r}") from error
    made = _users_own(str(kind), values, modules)
    if not isinstance(made, PowerSnapshot):
        raise ValueError(f"{kind!r} has no from_dict() that makes a power snapshot")  # noqa: TRY004
    return made


def _encode_own(snapshot: object) -> dict[str, Any] | None:
    """A user's own, where its class can read it again."""
    kind = type(snapshot)
    if not isinstance(snapshot, PredictorSnapshot | PowerSnapshot):
        return None
    if not callable(getattr(kind, "from_dict", None)):
        return None
    return {"kind": f"{kind.__module__}:{kind.__name__}", "values": dict(snapshot.to_dict())}


def _users_own(kind: str, values: Any, modules: Set[str]) -> object:
    module, _, name = kind.partition(":")
    if module not in modules:
        raise ValueError(
            f"snapshot of {kind!r}: its module is not named in this configuration "
            "(policy or a router). Name it there, or the instance is routed without its model."
        )
    read = getattr(getattr(importlib.import_module(module), name, None), "from_dict", None)
    return read(values) if callable(read) else None


def _encode_group(group: Callable[[Load], str]) -> Any:
    if isinstance(group, BySize):
        return list(group.edges)
    return next((name for name, known in _GROUPS.items() if known is group), None)


def _decode_group(encoded: Any) -> Callable[[Load], str]:
    if isinstance(encoded, list):
        return BySize(tuple(int(edge) for edge in encoded))
    return _GROUPS[encoded]
