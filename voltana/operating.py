"""Where an instance would run, asked of its models for as little as they tell it.

Pure, like `voltana.planning`, on which it stands.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from voltana.planning import cheapest_safe_index, curve_of, first_safe, mean_at
from voltana.ports import TellsPowerCurve, TellsPrefill, offers
from voltana.values.work import make_load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from voltana.ports import Forecasts, PowerCurve, PowerForecasts
    from voltana.values import Candidate, FloatArray, Load, Table

_Number = TypeVar("_Number", float, "FloatArray")

_LEAST_EXTRA_W = 1e-3
"""Work takes some power."""


def operating_point(candidate: Candidate, load: Load) -> tuple[float, float]:
    """Latency and power of `load` at the safe level of least power.

    Where none is safe, the power is inf, and the latency that of the fastest level.

    Args:
        candidate: With levels and both models.
        load: What its iteration would compute.
    """
    predictor, power = candidate.predictor, candidate.power
    assert predictor is not None
    assert power is not None
    levels_mhz, budget_s = candidate.levels_mhz, candidate.budget_s
    curve, rising = curve_of(predictor, load), power_curve_of(power, load)
    if curve is not None and rising is not None:
        begins = first_safe(curve, levels_mhz, budget_s)
        if begins == len(levels_mhz):
            return curve.mean_s(levels_mhz[-1]), math.inf
        return curve.mean_s(levels_mhz[begins]), rising.power_w(levels_mhz[begins])
    levels = np.array(levels_mhz, dtype=np.float64)
    forecast = predictor.forecast(load, levels)
    power_w = power.forecast_w(load, levels)
    index = cheapest_safe_index(forecast.upper_s, power_w, budget_s)
    if index is None:
        return float(forecast.mean_s[-1]), math.inf
    return float(forecast.mean_s[index]), float(power_w[index])


def power_curve_of(power: PowerForecasts, load: Load) -> PowerCurve | None:
    """Power of a load against the clock; None where it may fall, or is not told for less."""
    if not offers(power, TellsPowerCurve):
        return None
    return power.power_curve(load)


def power_at(power: PowerForecasts, load: Load, clock_mhz: float) -> float:
    """Power of `load` at one clock."""
    curve = power_curve_of(power, load)
    if curve is None:
        return float(power.forecast_w(load, np.array([clock_mhz]))[0])
    return curve.power_w(clock_mhz)


def work_energy_j(latency_s: FloatArray, extra_w: FloatArray) -> FloatArray:
    """Energy of a fixed amount of work at each clock, above that of waiting.

    The rest of the time is idle at any clock, so what counts is the power on top of idle power
    (S. Irani, S. Shukla, R. Gupta, "Algorithms for power savings", TALG 3, 2007).

    Args:
        latency_s: Time of the work at each clock, shape (n,); inf where unknown.
        extra_w: Power above that of waiting, shape (n,).
    """
    return latency_s * np.maximum(extra_w, _LEAST_EXTRA_W)


def critical_index(latency_s: FloatArray, extra_w: FloatArray) -> int:
    """Index of the critical clock: least energy for a fixed amount of work.

    Args:
        latency_s: Time of the work at each clock, shape (n,); inf where unknown.
        extra_w: Power above that of waiting, shape (n,).
    """
    return int(work_energy_j(latency_s, extra_w).argmin())


class PowerAtLevels:
    """Power of a load at each level, worked out where it is looked at.

    Args:
        curve: Against the clock.
        levels_mhz: The levels.
    """

    __slots__ = ("_curve", "_levels_mhz")

    def __init__(self, curve: PowerCurve, levels_mhz: Sequence[float]) -> None:
        self._curve = curve
        self._levels_mhz = levels_mhz

    def __getitem__(self, index: int) -> float:
        """Power at one level."""
        return self._curve.power_w(self._levels_mhz[index])


def prefill_mean(predictor: Forecasts, clock_mhz: float) -> Callable[[int, float], float]:
    """Expected latency of a prefill batch at one clock, by its tokens and attended pairs."""
    if offers(predictor, TellsPrefill):
        return predictor.prefill_mean(clock_mhz)

    def mean_s(tokens: int, attended_pairs: float) -> float:
        load = make_load(prefill_tokens=tokens, prefill_attended_pairs=attended_pairs)
        return mean_at(predictor, load, clock_mhz)

    return mean_s


def yet_to_compute(candidate: Candidate, pending: Load) -> Load:
    """Prompts that are pending without what the batch that runs has computed by now.

    As its model expects at the clock that it has; nothing where that is unknown. Of a batch that is
    overdue ever less counts as computed: how much longer it takes is not known.

    Args:
        candidate: The instance.
        pending: All its prompts, those of that batch included.
    """
    state, tokens = candidate.state, pending.prefill_tokens
    computing, ran_s, predictor = state.computing_tokens, state.computing_for_s, candidate.predictor
    if not (0 < computing <= tokens and ran_s > 0.0 and state.clock_mhz > 0.0) or predictor is None:
        return pending
    pairs = pending.prefill_attended_pairs
    takes_s = prefill_mean(predictor, state.clock_mhz)(computing, pairs * computing / tokens)
    if not 0.0 < takes_s < math.inf:
        return pending
    done = ran_s / takes_s if ran_s < takes_s else takes_s / ran_s
    left = tokens - int(computing * done)
    return make_load(prefill_tokens=left, prefill_attended_pairs=pairs * left / tokens)


class PrefillLine(NamedTuple):
    """Expected latency of prefill batches at one clock; many of them are worked out at once.

    Attributes:
        iteration_s: Of an iteration, whatever it computes.
        token_s: Of each prompt token.
        half_tile_s: Of each of the smaller tiles that the tokens fill.
        tile_s: Of each tile.
        experts_s: Of reading all experts.
        pair_s: Of each attended pair.
        untouched: Share of the experts that a token does not use; 1 of a dense model.
        half_tile: Tokens of a smaller tile.
        tile: Tokens of a tile.
    """

    iteration_s: float
    token_s: float
    half_tile_s: float
    tile_s: float
    experts_s: float
    pair_s: float
    untouched: float
    half_tile: float
    tile: float

    def __call__(self, tokens: int, attended_pairs: float) -> float:
        """Expected latency of one batch, in s; 0 without tokens."""
        if not tokens:
            return 0.0
        left = self.untouched**tokens if self.untouched < 1.0 else 1.0
        return _line_s(self, tokens, attended_pairs, left)


UNKNOWN_LINE = (math.nan,) * len(PrefillLine._fields)
"""A row of `lines_s` for what is no `PrefillLine`."""


def lines_s(lines: Table, tokens: FloatArray, attended_pairs: FloatArray) -> FloatArray:
    """What a `PrefillLine` in each row says of the batch in the same place, to the last bit.

    Args:
        lines: Shape (n, 9).
        tokens: Prompt tokens, whole numbers, shape (n,).
        attended_pairs: Their attended pairs, shape (n,).

    Returns:
        Shape (n,); nan where the row is `UNKNOWN_LINE`.
    """
    columns = lines.T
    untouched: FloatArray = columns[6]
    left: FloatArray | float = 1.0
    if np.minimum.reduce(untouched, initial=1.0) < 1.0:
        # One by one: the powers of an array may be rounded otherwise.
        left = np.array(
            [share**count for share, count in zip(untouched.tolist(), tokens.tolist(), strict=True)]
        )
    latency_s = _line_s(columns, tokens, attended_pairs, left)
    if np.minimum.reduce(tokens, initial=1.0) > 0.0:  # mostly
        return latency_s
    return np.where(tokens > 0.0, latency_s, 0.0 * columns[0])


def _line_s(
    line: Iterable[_Number], tokens: _Number, attended_pairs: _Number, left: _Number | float
) -> _Number:
    """Latency by the numbers of a line, or of many; `left` is the share of experts not read."""
    iteration_s, token_s, half_tile_s, tile_s, experts_s, pair_s, _, half_tile, tile = line
    halves, tiles = -(-tokens // half_tile), -(-tokens // tile)
    fixed_s = iteration_s + token_s * tokens + half_tile_s * halves + tile_s * tiles
    return fixed_s + experts_s * (1.0 - left) + pair_s * attended_pairs
