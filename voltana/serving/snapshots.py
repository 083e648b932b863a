"""Predictor snapshots on the wire, from an agent to a router.

Snapshots of the library's own predictors are known by kind. A user's own snapshot travels as
``MODULE:CLASS`` and is read by the class's ``from_dict``, but only where the router's own
configuration names that module: what comes over a network must not choose what is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from voltana.ports import PredictorSnapshot
from voltana.predictors.conformal_snapshot import ConformalSnapshot
from voltana.predictors.groups import BySize, by_phase, one_group
from voltana.predictors.latency_model import LatencySnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set

    from voltana.values import Load

_GROUPS: Mapping[str, Callable[[Load], str]] = {"by-phase": by_phase, "one": one_group}


def encode_snapshot(snapshot: PredictorSnapshot | None) -> dict[str, Any] | None:
    """A snapshot as plain values; None for one that cannot be read again."""
    if isinstance(snapshot, LatencySnapshot):
        return {"kind": "latency", "values": dict(snapshot.to_dict())}
    if isinstance(snapshot, ConformalSnapshot):
        inner, group = encode_snapshot(snapshot.predictor), _encode_group(snapshot.group)
        if inner is None or group is None:
            return None
        values = {**snapshot.to_dict(), "predictor": inner}
        return {"kind": "conformal", "values": values, "group": group}
    if snapshot is not None and callable(getattr(type(snapshot), "from_dict", None)):
        kind = type(snapshot)
        return {"kind": f"{kind.__module__}:{kind.__name__}", "values": dict(snapshot.to_dict())}
    return None


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
            return LatencySnapshot.from_dict(values)
        if kind == "conformal":
            inner = decode_snapshot(values["predictor"], modules)
            if inner is None:
                raise ValueError("a conformal snapshot wraps nothing")
            return ConformalSnapshot.from_dict(values, inner, _decode_group(encoded["group"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"unknown form of a predictor snapshot: {error!r}") from error
    return _users_own(str(kind), values, modules)


def _users_own(kind: str, values: Any, modules: Set[str]) -> PredictorSnapshot:
    module, _, name = kind.partition(":")
    if module not in modules:
        raise ValueError(
            f"snapshot of {kind!r}: its module is not named in this configuration "
            "(policy or a router). Name it there, or the instance is routed without its model."
        )
    read = getattr(getattr(importlib.import_module(module), name, None), "from_dict", None)
    made = read(values) if callable(read) else None
    if not isinstance(made, PredictorSnapshot):
        raise ValueError(f"{kind!r} has no from_dict() that makes a predictor snapshot")  # noqa: TRY004
    return made


def _encode_group(group: Callable[[Load], str]) -> Any:
    if isinstance(group, BySize):
        return list(group.edges)
    return next((name for name, known in _GROUPS.items() if known is group), None)


def _decode_group(encoded: Any) -> Callable[[Load], str]:
    if isinstance(encoded, list):
        return BySize(tuple(int(edge) for edge in encoded))
    return _GROUPS[encoded]
