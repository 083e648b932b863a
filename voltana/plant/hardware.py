"""Hardware profiles: what a board can do, read from a data file.

A profile holds published numbers (memory, peak rates, clocks) and calibrated coefficients. Each
calibrated section says where its numbers come from, how well they fit and where they hold.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from voltana.errors import ProfileError
from voltana.plant.coefficients import (
    BandwidthCurve,
    Clocks,
    CollectiveCoefficients,
    DecodeAttentionCoefficients,
    ElementwiseCoefficients,
    GemmCoefficients,
    HostCoefficients,
    LaunchCoefficients,
    Positive,
    PrefillAttentionCoefficients,
    Section,
)
from voltana.plant.hardware_class import CLASSES, Architecture
from voltana.plant.power import PowerCoefficients  # noqa: TC001 (pydantic reads the type)
from voltana.plant.profile_files import names, parse, read_profile

if TYPE_CHECKING:
    from pathlib import Path


class Knowledge(Section):
    """What of a profile is measured, what is inferred from something else, and what nobody knows.

    Attributes:
        measured: Found on that board.
        inferred: Taken from another board, quantity or model.
        unknown: What measurements to compare with are missing for.
    """

    measured: tuple[str, ...] = ()
    inferred: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def caveat(self, board: str) -> str:
        """One line that says which properties of a board are no measurements of it."""
        parts = [f"inferred: {'; '.join(self.inferred)}"] if self.inferred else []
        parts += [f"unknown: {'; '.join(self.unknown)}"] if self.unknown else []
        if not parts:
            return f"{board}: the profile does not say what of it is measured."
        return f"{board}, {'. '.join(parts)}."


class Uncertainty(Section):
    """How far off a profile may be, from residuals and from what is inferred.

    Attributes:
        low_clock_power: Power of work well below the highest clock, relative.
        decode_exponent: Exponent of decode's time against the clock, absolute.
        host_factor: Factor either way on the times of the host.
    """

    low_clock_power: Annotated[float, Field(ge=0, lt=1)] = 0.2
    decode_exponent: Annotated[float, Field(ge=0, lt=0.3)] = 0.1
    host_factor: Annotated[float, Field(ge=1)] = 2.0


class HardwareProfile(Section):
    """A board.

    Attributes:
        name: Its name, such as ``a100-sxm4-80gb``.
        memory_bytes: Device memory.
        memory_bandwidth: Published peak, bytes/s.
        sm_count: Streaming multiprocessors.
        peak_flops: Published dense peak per dtype, FLOP/s, at `peak_clock_mhz`.
        peak_clock_mhz: SM clock that the published peaks refer to.
        link_bandwidth: NVLink or PCIe bandwidth in one direction, bytes/s.
        architecture: Generation of the chip, a key of `hardware_class.CLASSES`.
        tdp_w: Power limit of the board.
        clocks: Supported SM clocks.
        bandwidth: Memory bandwidth against the SM clock.
    """

    name: str
    memory_bytes: int
    memory_bandwidth: Positive
    sm_count: int
    peak_flops: dict[str, Positive]
    peak_clock_mhz: Positive
    link_bandwidth: Positive
    architecture: Architecture = "hopper"
    tdp_w: Positive
    clocks: Clocks
    bandwidth: BandwidthCurve
    gemm: GemmCoefficients
    attention_prefill: PrefillAttentionCoefficients
    attention_decode: DecodeAttentionCoefficients
    elementwise: ElementwiseCoefficients
    collective: CollectiveCoefficients
    launch: LaunchCoefficients
    host: HostCoefficients
    power: PowerCoefficients
    knowledge: Knowledge = Knowledge()
    uncertainty: Uncertainty = Uncertainty()

    @property
    def clocks_mhz(self) -> tuple[float, ...]:
        """Supported clocks, ascending."""
        return _clock_table(self.clocks.min_mhz, self.clocks.max_mhz, self.clocks.step_mhz)

    @property
    def max_clock_mhz(self) -> float:
        """Highest supported clock."""
        return self.clocks.max_mhz

    @property
    def clock_call_s(self) -> float:
        """Median duration of the driver's call that changes a clock."""
        return self.clocks.call_s

    @property
    def clock_settle_s(self) -> float:
        """Time from the end of that call until the clock is in force."""
        own = self.clocks.settle_s
        return CLASSES[self.architecture].settle_s if own is None else own

    def peak_at_max(self, dtype: str) -> float:
        """Published peak of a type, scaled to the highest clock, in FLOP/s.

        Raises:
            ProfileError: If the board has no peak for that type.
        """
        if dtype not in self.peak_flops:
            raise ProfileError(
                f"profile {self.name}: peak_flops has no {dtype!r}, only "
                f"{', '.join(self.peak_flops)}. Choose a model of such a type, or add the peak."
            )
        return self.peak_flops[dtype] * self.max_clock_mhz / self.peak_clock_mhz

    def bandwidth_share(self, clock_mhz: float) -> float:
        """Memory bandwidth at an SM clock as a share of that at the highest clock."""
        curve = self.bandwidth
        return float(np.interp(clock_mhz, curve.clocks_mhz, curve.share))


@cache
def _clock_table(low: float, high: float, step: float) -> tuple[float, ...]:
    return tuple(low + step * index for index in range(round((high - low) / step) + 1))


def hardware_names() -> list[str]:
    """Names of the profiles that ship with the package."""
    return names("hardware")


def load_hardware(name_or_path: str | Path) -> HardwareProfile:
    """Read a hardware profile.

    Args:
        name_or_path: A name from `hardware_names`, or a TOML file of the same form.

    Raises:
        UnknownNameError: If there is no such profile.
        ProfileError: If the file is not a hardware profile.
    """
    return parse(HardwareProfile, *read_profile("hardware", name_or_path))
