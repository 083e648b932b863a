"""Says where python-control's own margins of a loop are not those of the loop.

`control.margin` of a discrete state-space system goes through polynomials in z, which lose their
digits where poles lie as close to 1 as those of a batch. On the frequency response it is right.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import control
import numpy as np

if TYPE_CHECKING:
    from voltana.analysis.margins import Margins

TOLERANCE = 0.01
"""Relative difference of a margin that is rounding."""


class MarginWarning(UserWarning):
    """`control.margin` of a loop says something else than its `Margins` do."""


def warn_of_margin(loop: control.StateSpace, margins: Margins, *, stacklevel: int = 2) -> None:
    """Warn with a `MarginWarning` where `control.margin` of a loop cannot be believed.

    Args:
        loop: Loop transfer function L, discrete, one input and one output.
        margins: Its margins by the frequency response.
        stacklevel: Whose line is named, as of `warnings.warn`.
    """
    gain, phase_deg = _theirs(loop)
    # It names whichever gain margin is closer to 1, and signs angles.
    gains = (margins.gain_margin, margins.gain_reduction or math.inf)
    wrong = []
    if not any(_same(gain, right) for right in gains):
        wrong.append(f"gain margin {gain:.4g} for {margins.gain_margin:.4g}")
    if not _same(abs(phase_deg), margins.phase_margin_deg):
        wrong.append(f"phase margin {phase_deg:.4g} for {margins.phase_margin_deg:.4g} degrees")
    if wrong:
        warnings.warn(
            f"control.margin of this loop is wrong by more than {TOLERANCE:.0%}: "
            f"{', '.join(wrong)}. It goes through polynomials in z; take .margins, or "
            "control.margin of .sampled.",
            MarginWarning,
            stacklevel=stacklevel + 1,
        )


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE)


def _theirs(loop: control.StateSpace) -> tuple[float, float]:
    """The gain and the phase margin that users would get; nan where there is no answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            gain, phase_deg, _, _ = control.margin(loop)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):
            return math.nan, math.nan
    return float(gain), float(phase_deg)
