"""Power of an instance as a function of load and clock, learned from windows of energy.

Power is idle power plus what the load adds; dynamic power of CMOS goes as V^2 f, which lies between
f (at the voltage floor) and f^3. So power is linear in fixed products of clock and load, with
coefficients that are not negative. The energy counter ticks every 10-100 ms and cannot be read per
iteration, so one sample is a window: its mean power, against the time-weighted mean of the
features of what ran in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana.errors import invalid
from voltana.predictors.least_squares import DirectionalLeastSquares

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.ports import PowerCurve
    from voltana.values import Exposure, FloatArray, Load

NOISE = 0.03
"""Relative noise of a window's energy that samples are weighed with."""

HALF_TOKENS = 512.0
"""Prefill tokens at which the load-dependent part of power is about half of its most."""

HALF_REQUESTS = 64.0
"""Decode requests at which it is."""

_MOST_CURVES = 256
"""Loads whose power is remembered, until more is learned."""

_IDLE = 2
_BUSY = 4
_NAMES = (
    "idle",
    "idle_cubed",
    *(
        f"{phase}_{form}"
        for phase in ("prefill", "decode")
        for form in ("linear", "cubed", "load_linear", "load_cubed")
    ),
)
_FEATURES = len(_NAMES)

_IDLE_SHARES = (0.12, 0.03)
_BUSY_SHARES = (0.1, 0.2, 0.1, 0.3)
"""Shares of the board's power limit that the features start with: a busy device near the limit."""


class LinearPower:
    """Linear power model; satisfies `voltana.ports.PowerPredictor`.

    Args:
        max_clock_mhz: The device's fastest clock.
        max_power_w: Power limit of all devices of the instance; the prior's scale.
        forgetting: Share of the information along a regressor that is kept at each window.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        *,
        max_clock_mhz: float = 1410.0,
        max_power_w: float = 400.0,
        forgetting: float = 0.998,
    ) -> None:
        for name, value in (("max_clock_mhz", max_clock_mhz), ("max_power_w", max_power_w)):
            if not 0 < value < math.inf:
                raise invalid(name, value, "above 0", "Look it up in the device's datasheet.")
        self.max_clock_mhz = max_clock_mhz
        self.max_power_w = max_power_w
        self._frozen: LinearPowerSnapshot | None = None  # until more is learned
        shares = (*_IDLE_SHARES, *_BUSY_SHARES, *_BUSY_SHARES)
        self._squares = DirectionalLeastSquares(
            features=_NAMES,
            prior_mean=dict(zip(_NAMES, (max_power_w * s for s in shares), strict=True)),
            prior_deviation=0.3 * max_power_w,
            forgetting=forgetting,
            nonnegative=True,
        )

    def forecast_w(self, load: Load, clocks_mhz: FloatArray) -> FloatArray:
        """See `voltana.ports.PowerPredictor.forecast_w`."""
        return self.snapshot().forecast_w(load, clocks_mhz)

    def power_curve(self, load: Load) -> PowerCurve | None:
        """See `voltana.ports.TellsPowerCurve`."""
        return (self._frozen or self.snapshot()).power_curve(load)

    def snapshot(self) -> LinearPowerSnapshot:
        """See `voltana.ports.FreezesPower.snapshot`; the same one until something is learned."""
        if self._frozen is None:
            self._frozen = LinearPowerSnapshot(
                max_clock_mhz=self.max_clock_mhz,
                coefficients=tuple(self._squares.coefficients.tolist()),
            )
        return self._frozen

    def learn_window(self, energy_j: float, exposures: Sequence[Exposure]) -> None:
        """Learn from one window; broken ones (counter reset, no time) are dropped.

        Power beyond twice the limit can only be an error of the counter.
        """
        duration_s = sum([e.duration_s for e in exposures])
        if not (duration_s > 0.0 and 0.0 < energy_j <= 2.0 * self.max_power_w * duration_s):
            return
        features = [0.0] * _FEATURES
        for exposure in exposures:
            share = exposure.clock_mhz / self.max_clock_mhz
            if not 0.0 < share < math.inf:
                return
            _add_features(features, exposure.load, share, exposure.duration_s / duration_s)
        x, power_w = np.array(features), energy_j / duration_s
        expected_w = self._squares.predict_vector(x)
        noise_w = NOISE * max(expected_w, power_w)
        self._squares.learn_vector(x, power_w, noise_w, expected=expected_w)
        self._frozen = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearPowerSnapshot:
    """A frozen linear power model; satisfies `voltana.ports.PowerSnapshot`.

    Attributes:
        max_clock_mhz: The device's fastest clock.
        coefficients: In watts, one for each feature.
    """

    max_clock_mhz: float
    coefficients: tuple[float, ...]
    _curves: dict[tuple[int, int], _Curve | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def forecast_w(self, load: Load, clocks_mhz: FloatArray) -> FloatArray:
        """See `voltana.ports.PowerForecasts.forecast_w`."""
        return _forecast_w(self.coefficients, self.max_clock_mhz, load, clocks_mhz)

    def power_curve(self, load: Load) -> PowerCurve | None:
        """See `voltana.ports.TellsPowerCurve`; remembered, as a batch stays for many iterations."""
        batch, known = (load.prefill_tokens, load.decode_requests), self._curves
        if batch in known:
            return known[batch]
        if len(known) >= _MOST_CURVES:
            known.clear()
        curve = _curve(self.coefficients, self.max_clock_mhz, load)
        rises = curve.flat >= 0.0 and curve.steep >= 0.0
        known[batch] = made = curve if rises else None
        return made

    def to_dict(self) -> Mapping[str, object]:
        """The model as plain JSON values; `from_dict` reads it."""
        return {"max_clock_mhz": self.max_clock_mhz, "coefficients": list(self.coefficients)}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> LinearPowerSnapshot:
        """Read what `to_dict` wrote.

        Raises:
            KeyError: If a key is missing.
            TypeError: If a value is of another kind.
            ValueError: If there are too few coefficients, or too many.
        """
        coefficients = values["coefficients"]
        if not isinstance(coefficients, list | tuple):
            raise TypeError("coefficients must be a list")
        if len(coefficients) != _FEATURES:
            raise ValueError(f"{len(coefficients)} coefficients: must be {_FEATURES}")
        return cls(
            max_clock_mhz=float(str(values["max_clock_mhz"])),
            coefficients=tuple(map(float, coefficients)),
        )


class _Curve(NamedTuple):
    """Power of a load against the clock: ``base + flat * share + steep * share**3``."""

    base: float
    flat: float
    steep: float
    max_clock_mhz: float

    def power_w(self, clock_mhz: float) -> float:
        """See `voltana.ports.PowerCurve`."""
        share = clock_mhz / self.max_clock_mhz
        return (share * share * self.steep + self.flat) * share + self.base


def _curve(c: Sequence[float], max_clock_mhz: float, load: Load) -> _Curve:
    start, level = _busy_part(load)
    if not start:
        return _Curve(c[0], 0.0, c[1], max_clock_mhz)
    flat = c[start] + c[start + 2] * level
    steep = c[1] + (c[start + 1] + c[start + 3] * level)
    return _Curve(c[0], flat, steep, max_clock_mhz)


def _forecast_w(
    c: Sequence[float], max_clock_mhz: float, load: Load, clocks_mhz: FloatArray
) -> FloatArray:
    base, flat, steep, _ = _curve(c, max_clock_mhz, load)
    share = clocks_mhz / max_clock_mhz
    # By Horner's rule, as at one clock.
    watts: FloatArray = share * share
    watts *= steep
    watts += flat
    watts *= share
    watts += base
    return watts


def _busy_part(load: Load) -> tuple[int, float]:
    """Where the features of the phase of `load` start, and how full it keeps the device.

    Those of prefill stand for a mixed batch too; nothing starts at 0 when it is idle.
    """
    tokens, requests = load.prefill_tokens, load.decode_requests
    if tokens:
        return _IDLE, tokens / (tokens + HALF_TOKENS)
    if requests:
        return _IDLE + _BUSY, requests / (requests + HALF_REQUESTS)
    return 0, 0.0


def _add_features(x: list[float], load: Load, share: float, weight: float) -> None:
    cubed = share**3
    x[0] += weight
    x[1] += weight * cubed
    start, level = _busy_part(load)
    if start:
        x[start] += weight * share
        x[start + 1] += weight * cubed
        x[start + 2] += weight * share * level
        x[start + 3] += weight * cubed * level
