"""Designs PI gains for wanted margins.

Of all PI controllers whose loop keeps every margin asked for, the one with the greatest integral
gain is taken: it removes disturbances soonest (M-constrained integral gain optimisation; Astrom,
Hagglund, "Advanced PID Control", ISA 2006, section 6.8). The margins are computed on the frequency
response for a grid of integral times and gains, and those of the result on the loop itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.analysis.controller_model import open_loop, pid_model
from voltana.analysis.decode_model import LATENCY
from voltana.analysis.margins import Margins, Requirement, frequencies, margins_of, require
from voltana.controllers.pid import PidGains
from voltana.errors import StabilityError, invalid

if TYPE_CHECKING:
    from voltana.analysis.actuation import Actuation

_GAINS = np.geomspace(1e-3, 1e3, 400)
_TIMES = np.geomspace(0.1, 1e4, 60)
"""Integral times, in samples."""

_RESERVE = 0.01
"""Share of each margin kept for what the grid does not see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PiDesign:
    """Gains, and the margins that they have.

    Attributes:
        gains: For `voltana.controllers.pid.Pid`.
        margins: Of the loop that they close.
    """

    gains: PidGains
    margins: Margins


def design_pi(
    plant: Any, actuation: Actuation, *, target_s: float, requirement: Requirement | None = None
) -> PiDesign:
    """Design PI gains for a decode instance.

    Args:
        plant: From the clock to the latency (`voltana.analysis.decode_model.DecodeModel.system`).
        actuation: How long a clock command takes.
        target_s: Set point of the latency, by which the controller divides its error.
        requirement: Margins wanted; None takes the defaults.

    Raises:
        ConfigError: If `target_s` is not above 0.
        StabilityError: If the clock has no effect, the plant is unstable by itself, or no gains
            keep the margins.
    """
    if not 0 < target_s < math.inf:
        raise invalid("target_s", target_s, "above 0 s and finite", "Name a latency.")
    wanted = requirement or Requirement()
    _check_plant(plant)
    dt = plant.dt
    omega = frequencies(dt)
    z = np.exp(1j * omega * dt)
    unit = PidGains(proportional_mhz=1.0, integral_mhz_per_s=0.0)
    process = open_loop(plant, actuation, pid_model(unit, target_s=target_s, dt=dt))
    response = np.squeeze(process(z))
    # The gain at which the proportional loop alone would be about as strong as the process.
    scale = 1.0 / float(np.abs(response).max())
    best: tuple[float, float] | None = None
    for samples in _TIMES:
        shaped = response * (1.0 + 1.0 / (samples * (1.0 - 1.0 / z)))
        gain = _largest_gain(shaped * scale, omega, wanted)
        if gain is not None and (best is None or gain / samples > best[0] / best[1]):
            best = gain, float(samples)
    if best is None:
        raise StabilityError(
            f"requirement = {wanted} is not allowed: no PI gains keep it with a delay of "
            f"{actuation.delay_s:.3g} s at a sample time of {dt:.3g} s. Ask for less margin."
        )
    gains = PidGains(
        proportional_mhz=best[0] * scale, integral_mhz_per_s=best[0] * scale / (best[1] * dt)
    )
    margins = margins_of(open_loop(plant, actuation, pid_model(gains, target_s=target_s, dt=dt)))
    require(margins, wanted, f"the design {gains}")
    return PiDesign(gains=gains, margins=margins)


def check_pid(
    gains: PidGains,
    plant: Any,
    actuation: Actuation,
    *,
    target_s: float,
    requirement: Requirement | None = None,
) -> Margins:
    """Margins of given gains; refuses those that are unstable or marginal.

    Args:
        gains: Of `voltana.controllers.pid.Pid`.
        plant: As of `design_pi`.
        actuation: Likewise.
        target_s: Likewise.
        requirement: Margins that they must have; None takes the defaults.

    Raises:
        StabilityError: Naming the pole or margin, its value, what is allowed and the remedy.
    """
    model = pid_model(gains, target_s=target_s, dt=plant.dt)
    margins = margins_of(open_loop(plant, actuation, model))
    require(margins, requirement or Requirement(), f"PID with {gains}")
    return margins


def _check_plant(plant: Any) -> None:
    radius = float(np.abs(plant.poles()).max(initial=0.0))
    if radius >= 1:
        raise StabilityError(
            f"the plant is unstable by itself: its largest pole has modulus {radius:.5g}, must be "
            "below 1. Lower --rate, add --decode instances, or raise --clock."
        )
    at_rest = float(np.real(plant[LATENCY, 0](1.0 + 0j)))
    if not at_rest < 0:
        raise StabilityError(
            f"the latency's gain over the clock = {at_rest:.3g} s/MHz is not allowed: must be "
            "below 0, or a controller can do nothing. Is the clock held by the power limit? "
            "Lower --clock."
        )


def _largest_gain(response: Any, omega: Any, wanted: Requirement) -> float | None:
    """Largest gain that keeps all margins; None if none does.

    The loop of a stable plant is stable at small gains, and up to the first at which it meets -1.
    """
    crossing = np.nonzero((response.imag[:-1] * response.imag[1:] <= 0) & (response.real[1:] < 0))[
        0
    ]
    leftmost = max((float(-response.real[i : i + 2].min()) for i in crossing), default=0.0)
    leftmost = max(leftmost, -float(response.real[-1]))  # real at the Nyquist frequency
    kept = None
    for gain in _GAINS:
        loop = gain * response
        if gain * leftmost * wanted.gain_margin * (1 + _RESERVE) > 1:
            break
        # Not the first to fail ends the search: the slow batch costs phase at low gains only.
        if np.abs(1.0 + loop).min() >= wanted.modulus_margin * (1 + _RESERVE) and _keeps_phase(
            loop, omega, wanted
        ):
            kept = float(gain)
    return kept


def _keeps_phase(loop: Any, omega: Any, wanted: Requirement) -> bool:
    """Whether the angle at every crossing of gain 1 suffices, also for the delay wanted."""
    above = np.abs(loop) > 1.0
    at = np.nonzero(above[:-1] != above[1:])[0]
    angles = np.mod(np.pi + np.angle(loop[at]), 2 * np.pi)
    least = np.minimum(angles, 2 * np.pi - angles)
    enough = least >= math.radians(wanted.phase_margin_deg) * (1 + _RESERVE)
    delays = angles / omega[at] >= wanted.delay_margin_s * (1 + _RESERVE)
    return bool(np.all(enough & delays))
