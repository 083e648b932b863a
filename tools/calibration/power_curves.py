"""Idle power and voltage against the SM clock, reduced to a few knots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq, least_squares

from benchmarks.fidelity import quotations, read_table
from voltana.plant.power import ClockCurve

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.values import FloatArray

A100_KNOTS_MHZ = (210, 510, 750, 900, 1020, 1095, 1155, 1200, 1245, 1305, 1350, 1380, 1410)
A100_VOLTAGE_KNOTS_MHZ = (210, 1020, 1095, 1155, 1200, 1245, 1305, 1350, 1410)
H100_KNOTS_MHZ = (345, 510, 750, 1005, 1035, 1110, 1200, 1260, 1410, 1500, 1605, 1740, 1875, 1980)
SXM4_IDLE_W = {1095: 52.0, 1410: 70.0}
"""Idle power of an A100-SXM4 at locked clocks; between them as on the PCIe board."""

_H100_OUTLIER_MHZ = 345


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Curves of one chip.

    Attributes:
        idle_w: Idle power of each board that carries it.
        voltage_mv: Its voltage.
    """

    idle_w: dict[str, ClockCurve]
    voltage_mv: ClockCurve

    def idle_of(self, board: str) -> ClockCurve:
        """Idle power of a board."""
        return self.idle_w[board]


def a100_curves(data_dir: Path) -> Curves:
    """Both curves as measured; SXM4 boards idle a little above the PCIe board."""
    clocks, idle, voltage = _measured(data_dir, "A100-PCIE-40GB")
    pcie = _knots(clocks, idle, A100_KNOTS_MHZ)
    scale = float(np.mean([watts / pcie.at(mhz) for mhz, watts in SXM4_IDLE_W.items()]))
    sxm4 = ClockCurve(
        clocks_mhz=pcie.clocks_mhz, values=tuple(scale * watts for watts in pcie.values)
    )
    return Curves(
        idle_w={"a100-pcie-40gb": pcie, "a100-sxm4-40gb": sxm4, "a100-sxm4-80gb": sxm4},
        voltage_mv=_knots(clocks, voltage, A100_VOLTAGE_KNOTS_MHZ),
    )


def h100_curves(data_dir: Path, a100: Curves) -> Curves:
    """Idle power as measured; the voltage inferred from it.

    On A100, and on A10, idle power is very nearly s v + c v^2 f with v the voltage relative to its
    floor: leakage and clock tree. With v = 1 at low clocks, s and c follow from H100's idle power
    there, and v at any other clock from its idle power. A sweep under load sees V^2 f agree with
    that at 1035 MHz and below and at 1410 MHz and above, and lie higher between: those quoted
    ratios, where they stand, correct it.
    """
    clocks, idle, _ = _measured(data_dir, "H100")
    kept = clocks > _H100_OUTLIER_MHZ
    curve = _knots(clocks[kept], idle[kept], H100_KNOTS_MHZ)
    flat = kept & (clocks <= 1005)
    _, per_mhz, _ = _idle_law(data_dir)
    leakage = float(np.mean(idle[flat] - per_mhz * clocks[flat]))
    floor_mv = min(a100.voltage_mv.values)

    def relative(mhz: float) -> float:
        excess = lambda v: leakage * v + per_mhz * v * v * mhz - curve.at(mhz)  # noqa: E731
        return max(1.0, float(brentq(excess, 0.5, 3.0)))

    quoted = quotations()["h100_voltage"]
    share = np.interp(H100_KNOTS_MHZ, quoted["clocks_mhz"], quoted["squared_over_inferred"]) ** 0.5
    inferred = [floor_mv * relative(mhz) for mhz in H100_KNOTS_MHZ]
    values = np.maximum.accumulate(share * inferred)
    voltage = ClockCurve(
        clocks_mhz=tuple(map(float, H100_KNOTS_MHZ)), values=tuple(values.tolist())
    )
    return Curves(idle_w={"h100-sxm": curve, "h200-sxm": curve}, voltage_mv=voltage)


def _idle_law(data_dir: Path) -> tuple[float, float, float]:
    """Leakage in W and clock tree in W/MHz of the A100, and the largest misfit in W."""
    clocks, idle, voltage = _measured(data_dir, "A100-PCIE-40GB")
    relative = voltage / voltage.min()
    system = np.stack([relative, relative**2 * clocks], axis=1)
    (leakage, per_mhz), *_ = np.linalg.lstsq(system, idle, rcond=None)
    misfit = np.abs(system @ [leakage, per_mhz] - idle).max()
    return float(leakage), float(per_mhz), float(misfit)


def _measured(data_dir: Path, gpu: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    table = read_table(data_dir / "energaizer-a100-dvfs" / "idle_power_and_voltage_vs_clock.csv")
    rows = [row for row in table if row["gpu"] == gpu]
    names = ("sm_clock_mhz", "idle_power_w", "supply_voltage_mv")
    clocks, idle, voltage = (
        np.array([float(row[name] or "nan") for row in rows]) for name in names
    )
    return clocks, idle, voltage


def _knots(clocks: FloatArray, values: FloatArray, knots_mhz: tuple[int, ...]) -> ClockCurve:
    """The piecewise linear curve through `knots_mhz` with the least squares."""
    knots = np.array(knots_mhz, dtype=float)
    fitted = least_squares(
        lambda heights: np.interp(clocks, knots, heights) - values, np.interp(knots, clocks, values)
    ).x
    return ClockCurve(clocks_mhz=tuple(knots.tolist()), values=tuple(fitted.tolist()))
