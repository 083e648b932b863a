"""What element-wise kernels gain from the SM clock, from forward passes at eleven clocks.

Only times relative to the fastest clock are fitted, and one number to them. Everything else that
sets the shape of these curves comes from other measurements: products at one clock, and the
bandwidth of pure streaming at several. OPT-1.3B is held out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar

from tools.calibration.eager import HARDWARE, Workload, costs, workloads
from voltana.plant.cost import ClockState
from voltana.plant.fit.least_squares import with_section
from voltana.plant.hardware import HardwareProfile, load_hardware

if TYPE_CHECKING:
    from voltana.values import FloatArray

HELD_OUT = "optmodel"


def predicted_seconds(hardware: HardwareProfile, workload: Workload) -> FloatArray:
    """Time of a forward pass at each measured clock."""
    parts = costs(hardware, workload)
    states = [ClockState.of(hardware, clock) for clock in workload.clocks_mhz]
    return np.array(
        [sum(np.asarray(part.seconds(state)).item() for part in parts) for state in states]
    )


def relative_errors(hardware: HardwareProfile, workload: Workload) -> FloatArray:
    """Errors of the times relative to the fastest clock, which itself is left out."""
    predicted = predicted_seconds(hardware, workload)
    ratio = predicted / predicted[-1] / (workload.seconds / workload.seconds[-1])
    return np.asarray(ratio[:-1] - 1.0)


def fit_issue_share() -> tuple[float, str]:
    """The ``issue_share`` of the section ``elementwise``, and how well it fits, in words."""
    hardware = load_hardware(HARDWARE)
    measured = [workload for workload in workloads() if not workload.launch_bound]
    fitted = [workload for workload in measured if workload.model != HELD_OUT]
    held_out = [workload for workload in measured if workload.model == HELD_OUT]

    def rms(issue_share: float, chosen: list[Workload]) -> float:
        board = with_section(hardware, "elementwise", issue_share=issue_share)
        errors = np.concatenate([relative_errors(board, workload) for workload in chosen])
        return float(np.sqrt(np.mean(errors**2)))

    share = float(minimize_scalar(rms, bounds=(0.0, 1.5), args=(fitted,), method="bounded").x)
    text = (
        f"times at 510-1410 MHz relative to the fastest clock (EnergAIzer) "
        f"{100 * rms(share, fitted):.1f} % rms, {100 * rms(share, held_out):.1f} % held out"
    )
    return share, text
