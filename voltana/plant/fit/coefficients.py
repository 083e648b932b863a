"""The coefficients that whole iterations can tell, and a board with other values of them.

Of each operator one share of a peak, or one time, is fitted: whole iterations do not tell a
kernel's tiles apart. Energies of the kinds of operators keep their ratios, the idle curve and the
voltage curve their shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.plant.fit.least_squares import with_section
from voltana.plant.power import ClockCurve

if TYPE_CHECKING:
    from voltana.plant.hardware import HardwareProfile

    Values = dict[str, float]

_TIMES = (
    "launch.iteration_s",
    "gemm.efficiency",
    "gemm.bandwidth_share",
    "attention_prefill.efficiency",
    "attention_decode.token_s",
    "attention_decode.bandwidth_share",
    "elementwise.bandwidth_share",
)
_TIMES_OF_GROUPS = ("collective.bandwidth_share",)
IDLE, WAITING, TOGGLE = "power.idle_w", "power.waiting_w", "power.toggle_w"
FLOP, BYTE, VOLTAGE = "power.flop_pj.gemm", "power.byte_pj.gemm", "power.voltage_mv"
_LEAST = 1e-9
"""A coefficient that is 0 in the base profile starts here, for its logarithm is fitted."""


def time_values(board: HardwareProfile, boards: int) -> Values:
    """Coefficients of the latency model, by their names in the profile.

    Args:
        board: The profile.
        boards: Boards of an instance; sums over a group are fitted where there is one.
    """
    names = _TIMES + (_TIMES_OF_GROUPS if boards > 1 else ())
    found = {}
    for name in names:
        section, _, key = name.partition(".")
        found[name] = max(float(getattr(getattr(board, section), key)), _LEAST)
    return found


def with_times(board: HardwareProfile, values: Values) -> HardwareProfile:
    """The board with other coefficients of the latency model."""
    for name, value in values.items():
        section, _, key = name.partition(".")
        board = with_section(board, section, **{key: value})
    return board


def power_values(board: HardwareProfile, gemm: str) -> Values:
    """Coefficients of the power model.

    Args:
        board: The profile.
        gemm: Kind of the matrix products, such as ``gemm_bf16``.

    Returns:
        Idle power at the highest clock (W), what waiting adds, what toggling adds (W), energy of a
        product's operation and of a byte (pJ), and the voltage at the lowest clock (mV).
    """
    power = board.power
    found = {
        IDLE: power.idle_w.at(board.max_clock_mhz),
        WAITING: power.waiting_w,
        TOGGLE: power.toggle_w,
        FLOP: power.flop_pj[gemm],
        BYTE: power.byte_pj["gemm"],
    }
    if _floor(board) < 1.0:
        found[VOLTAGE] = power.voltage_mv.at(board.clocks.min_mhz)
    return {name: max(value, _LEAST) for name, value in found.items()}


def with_powers(board: HardwareProfile, gemm: str, values: Values) -> HardwareProfile:
    """The board with other coefficients of the power model."""
    power, before = board.power, power_values(board, gemm)
    ratio = {name: value / before[name] for name, value in values.items()}
    update: dict[str, object] = {
        "idle_w": _scaled(power.idle_w, ratio[IDLE]),
        "waiting_w": values[WAITING],
        "toggle_w": values[TOGGLE],
        "flop_pj": {kind: ratio[FLOP] * pj for kind, pj in power.flop_pj.items()},
        "byte_pj": {kind: ratio[BYTE] * pj for kind, pj in power.byte_pj.items()},
    }
    if VOLTAGE in values:
        update["voltage_mv"] = _with_floor(board, values[VOLTAGE])
    return board.model_copy(update={"power": power.model_copy(update=update)})


def _floor(board: HardwareProfile) -> float:
    """Voltage at the lowest clock over that at the highest."""
    curve = board.power.voltage_mv
    return curve.at(board.clocks.min_mhz) / curve.at(board.max_clock_mhz)


def _with_floor(board: HardwareProfile, floor_mv: float) -> ClockCurve:
    """The voltage curve stretched between its top, which stays, and another floor."""
    curve = board.power.voltage_mv
    top_mv, low_mv = curve.at(board.max_clock_mhz), curve.at(board.clocks.min_mhz)
    stretch = (top_mv - floor_mv) / (top_mv - low_mv)
    values = tuple(max(1.0, top_mv - stretch * (top_mv - mv)) for mv in curve.values)
    return ClockCurve(clocks_mhz=curve.clocks_mhz, values=values)


def _scaled(curve: ClockCurve, factor: float) -> ClockCurve:
    return ClockCurve(
        clocks_mhz=curve.clocks_mhz, values=tuple(factor * value for value in curve.values)
    )
