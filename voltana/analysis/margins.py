"""Stability margins of a loop, and the refusal of one that has too little.

With the loop transfer function L (negative feedback) and the sensitivity S = 1 / (1 + L): the gain
margin is the factor by which L may grow, the phase margin the angle that it may lose, the delay
margin the time that the loop may lose, and the modulus margin the least distance of the Nyquist
curve from -1, that is 1 / Ms with Ms = max |S| (Astrom, Murray, "Feedback Systems", 2nd edition
2021, sections 10.3 and 13.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import control
import numpy as np

from voltana.errors import StabilityError, invalid

if TYPE_CHECKING:
    from voltana.values import FloatArray

_POINTS_PER_DECADE = 400
_LOWEST_SHARE = 1e-6
_ON_CIRCLE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """How far a loop is from instability.

    Attributes:
        gain_margin: Factor by which the loop gain may grow; inf where any.
        gain_reduction: Factor down to which it may fall; 0 where any.
        phase_margin_deg: Least phase that may be lost; inf where the gain never reaches 1.
        delay_margin_s: Least extra delay that is too much; inf likewise.
        modulus_margin: Least distance from -1; 1 without feedback.
        crossover_rad_s: Highest frequency at which the gain is 1; nan where there is none.
        pole_radius: Largest modulus of a closed-loop pole; stable below 1.
    """

    gain_margin: float
    gain_reduction: float
    phase_margin_deg: float
    delay_margin_s: float
    modulus_margin: float
    crossover_rad_s: float
    pole_radius: float

    @property
    def stable(self) -> bool:
        """Whether all closed-loop poles lie inside the unit circle."""
        return self.pole_radius < 1.0 - _ON_CIRCLE

    @property
    def sensitivity_peak(self) -> float:
        """Ms, the largest amplification of a disturbance at any frequency."""
        return 1.0 / self.modulus_margin if self.modulus_margin else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """The margins that a design must have; the defaults are those that textbooks ask for.

    Attributes:
        modulus_margin: At least this; 0.5 is Ms = 2.
        phase_margin_deg: At least this.
        gain_margin: At least this.
        delay_margin_s: At least this.

    Raises:
        ConfigError: If one is outside its range.
    """

    modulus_margin: float = 0.5
    phase_margin_deg: float = 30.0
    gain_margin: float = 2.0
    delay_margin_s: float = 0.0

    def __post_init__(self) -> None:
        ranges = {
            "modulus_margin": (0.0, 1.0, "0 to 1, ends excluded"),
            "phase_margin_deg": (0.0, 90.0, "above 0, below 90 degrees"),
            "gain_margin": (1.0, math.inf, "above 1, finite"),
        }
        for name, (low, high, allowed) in ranges.items():
            if not low < getattr(self, name) < high:
                usual = f"{getattr(Requirement(), name):g} is usual (docs/analysis.md)."
                raise invalid(name, getattr(self, name), allowed, usual)
        if not 0 <= self.delay_margin_s < math.inf:
            raise invalid("delay_margin_s", self.delay_margin_s, "0 s or more", "0 asks nothing.")

    def shortfall(self, margins: Margins) -> str:
        """The first margin that falls short, with its value and what is allowed; else empty."""
        for name, unit in (
            ("modulus_margin", ""),
            ("phase_margin_deg", " degrees"),
            ("gain_margin", ""),
            ("delay_margin_s", " s"),
        ):
            value, least = getattr(margins, name), getattr(self, name)
            if value < least:
                return f"{name} = {value:.3g}{unit} is not allowed: must be at least {least:g}"
        return ""


def frequencies(dt: float, states: FloatArray | None = None) -> FloatArray:
    """A grid up to the Nyquist frequency in rad/s, dense around the poles in `states`.

    Args:
        dt: Sample time, s.
        states: Poles, shape (n,), complex; each gets points of its own.
    """
    top = math.pi / dt
    decades = -math.log10(_LOWEST_SHARE)
    grid = np.geomspace(_LOWEST_SHARE * top, top, int(decades * _POINTS_PER_DECADE))
    if states is None:
        return grid
    moduli = np.abs(states)
    inside = (moduli > 0.3) & (np.abs(np.angle(states)) > 1e-9)
    peaks = np.abs(np.angle(states[inside])) / dt
    widths = np.maximum(np.abs(1.0 - moduli[inside]), 1e-4) / dt
    around = peaks[:, None] + widths[:, None] * np.linspace(-3, 3, 61)
    grid = np.union1d(grid, around.ravel())
    kept: FloatArray = grid[(grid > 0) & (grid <= top)]
    return kept


def sampled(loop: control.StateSpace) -> control.FrequencyResponseData:
    """The frequency response of a loop where it matters, up to the Nyquist frequency.

    `control.margin` agrees with `margins_of` on it. On the loop itself it does not: it goes through
    polynomials in z, which lose their digits where poles lie as close to 1 as those of a batch.

    Args:
        loop: Loop transfer function L, discrete, one input and one output.
    """
    omega = frequencies(loop.dt, closed_loop_poles(loop))
    return control.frd(np.squeeze(loop(np.exp(1j * omega * loop.dt))), omega)


def margins_of(loop: control.StateSpace) -> Margins:
    """Margins of a closed loop with unit negative feedback.

    Args:
        loop: Loop transfer function L, discrete, one input and one output.
    """
    poles, response_data = closed_loop_poles(loop), sampled(loop)
    response = np.squeeze(response_data.frdata)
    modulus = float(np.min(np.abs(1.0 + response)))
    radius = float(np.max(np.abs(poles), initial=0.0))
    gains, phases, _, _, crossings, _ = control.stability_margins(response_data, returnall=True)
    # An angle that is lost, from whichever side: -170 degrees of margin are 190 to lose.
    angles = np.mod(np.asarray(phases, dtype=float), 360.0)
    crossings = np.asarray(crossings, dtype=float)
    gains = np.append(gains, _gains_at_the_ends(loop))
    growth, fall = gains[gains > 1.0], gains[(gains < 1.0) & (gains > 0)]
    return Margins(
        gain_margin=float(np.min(growth, initial=math.inf)),
        gain_reduction=float(np.max(fall, initial=0.0)),
        phase_margin_deg=float(np.min(np.minimum(angles, 360.0 - angles), initial=math.inf)),
        delay_margin_s=float(np.min(np.radians(angles) / crossings, initial=math.inf)),
        modulus_margin=modulus,
        crossover_rad_s=float(np.max(crossings)) if crossings.size else math.nan,
        pole_radius=radius,
    )


def _gains_at_the_ends(loop: control.StateSpace) -> list[float]:
    """Gain margins at rest and at the Nyquist frequency, where L is real and crosses no axis."""
    ends = [complex(np.squeeze(loop(z))).real for z in (1.0 + 1e-12, -1.0)]
    return [-1.0 / value for value in ends if -math.inf < value < 0]


def closed_loop_poles(loop: control.StateSpace) -> FloatArray:
    """Poles of 1 / (1 + L), shape (n,), complex."""
    poles: FloatArray = np.atleast_1d(control.feedback(loop, 1).poles())
    return poles


def require(margins: Margins, requirement: Requirement, what: str) -> None:
    """Refuse a loop that is unstable or marginal.

    Args:
        margins: What it has.
        requirement: What it must have.
        what: Its name, for the error.

    Raises:
        StabilityError: Naming the pole or margin, its value, what is allowed and the remedy.
    """
    if not margins.stable:
        raise StabilityError(
            f"{what} is unstable: its largest pole has modulus {margins.pole_radius:.5g}, "
            "must be below 1. Lower its gains, or shorten the actuator's delay."
        )
    shortfall = requirement.shortfall(margins)
    if shortfall:
        raise StabilityError(
            f"{what} is marginal: {shortfall}. Lower its gains, or ask for less margin."
        )
