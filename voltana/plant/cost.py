"""What a group of kernels costs, split by what its time depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from voltana.plant.hardware import HardwareProfile
    from voltana.values import FloatArray

    Values = FloatArray | float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockState:
    """How fast a board is at one SM clock, relative to its highest clock.

    Attributes:
        compute: The clock itself, relative.
        bandwidth: Memory bandwidth, relative.
    """

    compute: float
    bandwidth: float

    @classmethod
    def of(cls, hardware: HardwareProfile, clock_mhz: float) -> ClockState:
        """The state of `hardware` at `clock_mhz`."""
        return cls(
            compute=clock_mhz / hardware.max_clock_mhz,
            bandwidth=hardware.bandwidth_share(clock_mhz),
        )


FASTEST = ClockState(compute=1.0, bandwidth=1.0)
"""Any board at its highest clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of one kind of operator at the highest clock; every part is a number or an array.

    Attributes:
        kind: ``gemm``, ``attention_prefill``, ``attention_decode``, ``elementwise``,
            ``collective`` or ``launch``.
        flops: Floating-point operations, on one board.
        bytes: Bytes moved from and to its memory.
        compute_s: Time of the part that scales with the SM clock, alone.
        memory_s: Time of the part that scales with the memory bandwidth, alone.
        fixed_s: Time that depends on no clock.
        overlap: Exponent p of the smooth maximum (compute^p + memory^p)^(1/p).
        serial_s: Time that scales with the SM clock and overlaps with nothing.
    """

    kind: str
    flops: Values
    bytes: Values
    compute_s: Values
    memory_s: Values
    fixed_s: Values = 0.0
    serial_s: Values = 0.0
    overlap: float = 1.0

    def seconds(self, clock: ClockState) -> Values:
        """Time at a clock."""
        compute = np.asarray(self.compute_s) / clock.compute
        memory = np.asarray(self.memory_s) / clock.bandwidth
        power = self.overlap
        busy = (compute**power + memory**power) ** (1.0 / power)
        total: Values = busy + np.asarray(self.serial_s) / clock.compute + self.fixed_s
        return total
