"""The unit of recorded times where the column does not settle it: the times themselves do."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.values import FloatArray

UNITS: Mapping[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds in a unit, by the name that users give it."""

_WORDS = {1.0: "seconds", 1e-3: "milliseconds", 1e-6: "microseconds", 1e-9: "nanoseconds"}

_OTHER = {1.0: "milliseconds", 1e-3: "seconds"}

_EPOCH_S = (1e9, 5e9)
"""2001 to 2128 in seconds since 1970; the same dates in two units never overlap."""

_FRACTIONS_ABOVE_RPS = 100.0
"""Parts of a millisecond at more than this rate: seconds. Nobody measures arrivals so finely, and
no public trace of one service comes near such a rate."""

_WHOLE_ABOVE_RPS = 500.0
_WHOLE_BELOW_RPS = 0.005
_ENOUGH = 64
"""Whole numbers say less: so many requests must agree, at a rate further from what is served."""

_DOUBT_ABOVE_RPS = 50.0
_DOUBT_BELOW_RPS = 0.05
"""Outside of these the other of seconds and milliseconds is as likely, which is said."""


class TimeUnit(NamedTuple):
    """The unit of a file's times, in seconds, and why, where users should know; else empty."""

    seconds: float
    because: str


def decide_unit(times: FloatArray, usual_s: float) -> TimeUnit:
    """Tell the unit of times by when and how fast requests come.

    Args:
        times: Shape (n,), n at least 1, in any order.
        usual_s: The unit that the column has if nothing speaks against it, in seconds.
    """
    first = float(times.min())
    for unit_s in UNITS.values():
        if _EPOCH_S[0] <= first * unit_s <= _EPOCH_S[1]:
            why = "" if unit_s == usual_s else "since 1970, they would be dates of another age"
            return _unit(unit_s, usual_s, why)
    span = float(times.max()) - first
    return _by_rate(times, span, usual_s) if span > 0 else TimeUnit(usual_s, "")


def _by_rate(times: FloatArray, span: float, usual_s: float) -> TimeUnit:
    rate_rps = (len(times) - 1) / (span * usual_s)
    fractions = bool(np.any(times != np.floor(times)))
    enough = len(times) >= _ENOUGH
    why = f"{len(times)} requests would come within {span * usual_s:.3g} s"
    if usual_s == UNITS["ms"]:
        most_rps = _FRACTIONS_ABOVE_RPS if fractions else _WHOLE_ABOVE_RPS
        if rate_rps > most_rps and (fractions or enough):
            return _unit(UNITS["s"], usual_s, why)
        if fractions:
            return TimeUnit(usual_s, "milliseconds, though they have fractions")
    elif usual_s == UNITS["s"] and enough and not fractions and rate_rps < _WHOLE_BELOW_RPS:
        return _unit(UNITS["ms"], usual_s, why)
    doubtful = usual_s in _OTHER and not _DOUBT_BELOW_RPS <= rate_rps <= _DOUBT_ABOVE_RPS
    return TimeUnit(usual_s, _doubt(usual_s, why) if doubtful else "")


def _doubt(usual_s: float, why: str) -> str:
    said = f"{_WORDS[usual_s]}, as is usual for the column, but {why}"
    return f"{said}: they may be {_OTHER[usual_s]}"


def _unit(unit_s: float, usual_s: float, why: str) -> TimeUnit:
    if not why:
        return TimeUnit(unit_s, "")
    return TimeUnit(unit_s, f"{_WORDS[unit_s]}: as {_WORDS[usual_s]}, {why}")
