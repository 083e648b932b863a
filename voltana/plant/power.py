"""Power of a board: idle, a part that follows V(f)^2 f while kernels run, and energy per operation.

One iteration at clock f takes, on each board (E. Le Sueur and G. Heiser, "Dynamic voltage and
frequency scaling", HotPower 2010, for the V^2 f law; S. Hong and H. Kim, ISCA 2010, for energy by
kind of operation)::

    E = P_idle(f) T + W T_wait + C v^2 (f / f_max) T_busy + v^2 sum_k e_k flops_k
        + (s + (1 - s) v^2) sum_k b_k bytes_k          with v = V(f) / V(f_max)

An operator that is bound by compute does flops in proportion to f, so its power follows V^2 f; one
that is bound by memory moves its bytes at a rate that hardly depends on f. In the gaps between
kernels a board draws little more than when idle. The average power is E / T, and
`voltana.plant.iteration` holds it below the board's limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from voltana.errors import ProfileError
from voltana.plant.hardware_class import CLASSES
from voltana.values import FloatArray

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.operators import OperatorTime

LAUNCH = "launch"
"""Kind of operator during which the board only waits."""

_Watts = Annotated[float, Field(ge=0)]
_Picojoules = Annotated[float, Field(ge=0)]
_ValueT = TypeVar("_ValueT", float, FloatArray)


class ClockCurve(BaseModel):
    """A quantity against the SM clock: linear between the knots, constant outside.

    Attributes:
        clocks_mhz: Knots, ascending.
        values: The quantity there, positive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    clocks_mhz: tuple[float, ...]
    values: tuple[Annotated[float, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.clocks_mhz or len(self.clocks_mhz) != len(self.values):
            raise ValueError("clocks_mhz and values must have the same length, at least 1")
        if any(a >= b for a, b in zip(self.clocks_mhz, self.clocks_mhz[1:], strict=False)):
            raise ValueError("clocks_mhz must ascend")
        return self

    def at(self, clock_mhz: float) -> float:
        """The quantity at a clock."""
        return float(np.interp(clock_mhz, self.clocks_mhz, self.values))


class PowerCoefficients(BaseModel):
    """Coefficients of this file's formula, for one board.

    Attributes:
        idle_w: Power of an idle board at a locked clock, in W.
        voltage_mv: Supply voltage in mV; only its ratio to that at the highest clock counts.
        waiting_w: W, power above idle in the gaps between kernels, in W.
        toggle_w: C, clock tree, schedulers and caches at the highest clock, in W.
        flop_pj: e_k at the highest clock, pJ per FLOP, by kind of operator; ``gemm`` is followed
            by the type, as in ``gemm_bf16``.
        byte_pj: b_k at the highest clock, pJ per byte moved, by kind of operator.
        byte_fixed_share: s, share of b_k that does not follow the core's voltage.
        source: Measurement that the coefficients come from.
        residual: How well they fit it.
        valid: Where they hold, and what is inferred.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    idle_w: ClockCurve
    voltage_mv: ClockCurve
    waiting_w: _Watts
    toggle_w: _Watts
    flop_pj: dict[str, _Picojoules]
    byte_pj: dict[str, _Picojoules]
    byte_fixed_share: Annotated[float, Field(ge=0, le=1)]
    source: str
    residual: str
    valid: str

    @model_validator(mode="after")
    def _check_kinds(self) -> Self:
        unknown = (self.flop_pj.keys() | self.byte_pj.keys()) - _KINDS - _gemm_kinds(self.flop_pj)
        if unknown:
            raise ValueError(
                f"unknown kind of operator {', '.join(sorted(unknown))}; "
                f"known are gemm_<type>, {', '.join(sorted(_KINDS))}"
            )
        return self


_KINDS = {"gemm", "attention_prefill", "attention_decode", "elementwise", "collective"}


def _gemm_kinds(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith("gemm_")}


class ClockPower(NamedTuple):
    """What one clock does to a board's power.

    Attributes:
        idle_w: Power without work.
        waiting_w: Power in the gaps between the kernels of an iteration.
        running_w: Power while any kernel runs, its operations left out.
        core_share: v^2, factor on the energy of operations in the core's voltage domain.
    """

    idle_w: float
    waiting_w: float
    running_w: float
    core_share: float


class PowerModel:
    """Power of one board of an instance.

    Args:
        hardware: The board.
        arithmetic: Type of the matrix products.

    Raises:
        ProfileError: If the profile has no energy per FLOP for that type.
    """

    def __init__(self, hardware: HardwareProfile, arithmetic: str = "bf16") -> None:
        coefficients = hardware.power
        gemm = f"gemm_{arithmetic}"
        if gemm not in coefficients.flop_pj:
            raise ProfileError(
                f"profile {hardware.name}: power.flop_pj has no {gemm}. "
                "Add its energy per FLOP, or serve the model in another type."
            )
        self.limit_w = hardware.tdp_w
        follows = CLASSES[hardware.architecture].idle_follows_lock
        self._idle_mhz = None if follows else hardware.clocks.min_mhz
        self._coefficients = coefficients
        self._max_mhz = hardware.max_clock_mhz
        self._max_mv = coefficients.voltage_mv.at(self._max_mhz)
        self._flop_j = {kind: 1e-12 * pj for kind, pj in coefficients.flop_pj.items()}
        self._flop_j["gemm"] = self._flop_j[gemm]
        self._byte_j = {kind: 1e-12 * pj for kind, pj in coefficients.byte_pj.items()}
        self._byte_j |= dict.fromkeys(_gemm_kinds(self._flop_j), self._byte_j.get("gemm", 0.0))

    def idle_w(self, clock_mhz: float) -> float:
        """Power of the idle board at a locked clock, which it keeps or not."""
        return self._coefficients.idle_w.at(self._idle_mhz or clock_mhz)

    def at(self, clock_mhz: float) -> ClockPower:
        """What a clock does to the board's power."""
        fit = self._coefficients
        core_share = (fit.voltage_mv.at(clock_mhz) / self._max_mv) ** 2
        toggle_w = fit.toggle_w * core_share * clock_mhz / self._max_mhz
        idle_w = fit.idle_w.at(clock_mhz)
        return ClockPower(idle_w, idle_w + fit.waiting_w, idle_w + toggle_w, core_share)

    def operation_j(
        self, kind: str, flops: _ValueT, moved_bytes: _ValueT
    ) -> tuple[_ValueT, _ValueT]:
        """Energy of operations at the highest clock, split by what it follows.

        Args:
            kind: Kind of operator.
            flops: Floating-point operations, a number or an array.
            moved_bytes: Bytes moved, of the same shape.

        Returns:
            The part that follows the core's voltage squared, and the part that does not, in J.
        """
        fixed = self._coefficients.byte_fixed_share
        byte_j = self._byte_j.get(kind, 0.0) * moved_bytes
        return self._flop_j.get(kind, 0.0) * flops + (1.0 - fixed) * byte_j, fixed * byte_j

    def power_w(self, breakdown: Iterable[OperatorTime], clock_mhz: float) -> float:
        """Average power over an iteration, were there no power limit.

        Args:
            breakdown: Its operators at that clock; none at all for an idle board.
            clock_mhz: The SM clock.
        """
        clock = self.at(clock_mhz)
        total_s, energy_j = 0.0, 0.0
        for part in breakdown:
            core_j, fixed_j = self.operation_j(part.kind, part.flops, part.bytes)
            energy_j += clock.core_share * core_j + fixed_j
            energy_j += part.seconds * (clock.waiting_w if part.kind == LAUNCH else clock.running_w)
            total_s += part.seconds
        return energy_j / total_s if total_s else self.idle_w(clock_mhz)
