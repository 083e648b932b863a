"""Boards that nobody measured at several clocks: made from a calibrated one, number by number.

A variant takes the published numbers of its data sheet. Times that are counted at the highest clock
are scaled to its own, energies to its own voltage there. Whatever it takes over says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tools.calibration import b200
from tools.calibration.profile_file import PROFILES
from voltana.plant.fit.least_squares import with_section
from voltana.plant.hardware import HardwareProfile, Knowledge, Uncertainty, load_hardware
from voltana.plant.power import ClockCurve
from voltana.plant.profile_text import profile_toml

if TYPE_CHECKING:
    from collections.abc import Mapping

CLOCKED_TIMES = {
    "gemm": ("kernel_s", "grouped_kernel_s"),
    "attention_prefill": ("kernel_s",),
    "attention_decode": ("token_s", "unit_s", "kernel_s"),
    "elementwise": ("row_s", "kernel_s"),
}
"""Coefficients that are seconds at the highest clock."""

_SECTIONS = ("gemm", "attention_prefill", "attention_decode", "elementwise", "collective")
_SIGNIFICANT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A board that is made from another.

    Attributes:
        base: The calibrated board.
        published: What its data sheet says, as keys of the profile.
        clocks_mhz: Lowest and highest clock.
        because: Why the base stands for it, as it is written into each section.
        power_share: Idle power, waiting and toggling over those of the base.
        flop_share: Energy of an operation over that of the base.
        byte_share: Energy of a byte over that of the base.
        keeps_voltage: Whether a clock in MHz has the voltage that it has on the base (the same
            chip); else the same part of the highest clock has it.
        knowledge: What is measured, inferred and unknown.
        low_clock_power: See `Uncertainty`.
        decode_exponent: See `Uncertainty`.
    """

    base: str
    published: Mapping[str, object]
    clocks_mhz: tuple[float, float]
    because: str
    power_share: float = 1.0
    flop_share: float = 1.0
    byte_share: float = 1.0
    keeps_voltage: bool = False
    knowledge: Knowledge = field(default_factory=Knowledge)
    low_clock_power: float = 0.2
    decode_exponent: float = 0.1


_HOPPER = {
    "sm_count": 132,
    "peak_flops": {"bf16": 9.894e14, "fp8": 1.9789e15, "fp32": 6.69e13},
    "architecture": "hopper",
}
_SAME_CHIP = "inferred from h100-sxm, whose chip it has"
_UNKNOWN = ("everything of this board under load: no measurement to compare with is known",)


def _knows(measured: str, *inferred: str, unknown: tuple[str, ...] = _UNKNOWN) -> Knowledge:
    return Knowledge(
        measured=(measured,),
        inferred=(*inferred, "time of the host: as on A100"),
        unknown=unknown,
    )


_HOPPER_KNOWN = _knows(
    "times of operators and power on h100-sxm, which has the same chip; the rest is its data sheet",
    "times and power: h100-sxm's, with this board's memory, clocks and limit",
    "power below the fastest clock: as on h100-sxm, where it is inferred as well",
    "settling of the clock: of the chip's generation",
)

VARIANTS = {
    "gh200-96gb": Variant(
        base="h100-sxm",
        published=_HOPPER
        | {
            "memory_bytes": 96_000_000_000,
            "memory_bandwidth": 4.0e12,
            "link_bandwidth": 4.5e11,
            "tdp_w": 700.0,
        },
        clocks_mhz=(345, 1980),
        because=_SAME_CHIP,
        keeps_voltage=True,
        knowledge=_HOPPER_KNOWN.model_copy(
            update={
                "inferred": (
                    *_HOPPER_KNOWN.inferred,
                    "the GPU's limit of 700 W: the module's, 450 to 1000 W, is shared with its CPU",
                )
            }
        ),
    ),
    "h100-nvl": Variant(
        base="h100-sxm",
        published=_HOPPER
        | {
            # The sheet's 835 TFLOP/s are those of 132 SMs at 1545 MHz.
            "peak_flops": {"bf16": 8.35e14, "fp8": 1.671e15, "fp32": 5.65e13},
            "peak_clock_mhz": 1545.0,
            "memory_bytes": 94_000_000_000,
            "memory_bandwidth": 3.9e12,
            "link_bandwidth": 3.0e11,
            "tdp_w": 400.0,
        },
        clocks_mhz=(345, 1785),
        because=_SAME_CHIP,
        keeps_voltage=True,
        power_share=0.85,
        knowledge=_HOPPER_KNOWN.model_copy(
            update={
                "inferred": (
                    *_HOPPER_KNOWN.inferred,
                    "power beside operations: h100-sxm's at 0.85, for a board of 400 W has fewer "
                    "links and chips picked for low leakage",
                )
            }
        ),
    ),
    "l40s": Variant(
        base="a100-sxm4-80gb",
        published={
            "memory_bytes": 48_000_000_000,
            "memory_bandwidth": 8.64e11,
            "sm_count": 142,
            "peak_flops": {"bf16": 3.6205e14, "fp8": 7.33e14, "fp32": 9.16e13},
            "peak_clock_mhz": 2520.0,
            "link_bandwidth": 3.2e10,
            "architecture": "ada",
            "tdp_w": 350.0,
        },
        clocks_mhz=(210, 2520),
        because="inferred from a100-sxm4-80gb, whose kernels it runs",
        power_share=0.85,
        flop_share=0.55,
        byte_share=1.3,
        knowledge=_knows(
            "nothing on this board: published peaks, memory, clocks and limit alone (data sheet)",
            "times: shares of the peaks and cycles as on A100, whose kernels Ada runs",
            "power: A100's idle power at 0.85, its energy an operation at 0.55 (one and a half "
            "generations of process), its energy a byte at 1.3 (GDDR6 in place of HBM)",
            "voltage: A100's at the same part of the highest clock",
            "settling of the clock: taken as on A100 and Hopper",
        ),
        low_clock_power=0.3,
        # Its decode is bound by memory nearly whole, so it cannot react less than a little.
        decode_exponent=0.02,
    ),
}  # fmt: skip
VARIANTS["gh200-144gb"] = Variant(
    base="h100-sxm",
    published=dict(VARIANTS["gh200-96gb"].published)
    | {"memory_bytes": 144_000_000_000, "memory_bandwidth": 4.9e12},
    clocks_mhz=(345, 1980),
    because=_SAME_CHIP,
    byte_share=0.85,
    keeps_voltage=True,
    knowledge=VARIANTS["gh200-96gb"].knowledge.model_copy(
        update={
            "inferred": (
                *VARIANTS["gh200-96gb"].knowledge.inferred,
                "energy a byte of HBM3e: 0.85 of HBM3's, as on h200-sxm",
            )
        }
    ),
)
VARIANTS["b200-sxm"] = Variant(
    base="h100-sxm",
    published={
        "memory_bytes": 180_000_000_000,
        "memory_bandwidth": 8.0e12,
        "sm_count": 148,
        "peak_flops": {"bf16": 2.25e15, "fp8": 4.5e15, "fp32": 7.5e13},
        "peak_clock_mhz": 1855.0,
        "link_bandwidth": 9.0e11,
        "architecture": "blackwell",
        "tdp_w": 1000.0,
    },
    clocks_mhz=(120, 1965),
    because="inferred from h100-sxm, the generation before",
    power_share=b200.POWER_SHARE,
    knowledge=_knows(
        "times and power of attention at the fastest clock (vLLM's FlashInfer kernels)",
        "times of products, element-wise kernels and sums: shares of the peaks as on h100-sxm",
        "energy of products: that of attention, over the ratio that the plant takes on all boards",
        "idle power: h100-sxm's, scaled so that the smallest kernels draw what was measured",
        "power below the fastest clock: h100-sxm's voltage at the same part of the highest clock",
        "settling of the clock: of the chip's generation",
        unknown=("everything at locked clocks", "products and whole iterations"),
    ),
    low_clock_power=0.3,
)


def board(name: str, *, fit: bool = True) -> HardwareProfile:
    """The profile of a variant.

    Args:
        name: Its name.
        fit: Whether what was measured on it is fitted (B200's attention), which needs the data.
    """
    variant = VARIANTS[name]
    base = load_hardware(variant.base)
    low_mhz, high_mhz = variant.clocks_mhz
    clocks = base.clocks.model_copy(
        update={
            "min_mhz": low_mhz,
            "max_mhz": high_mhz,
            "provenance": base.clocks.provenance.model_copy(
                update={"valid": "range from the data sheet; times as on A100 and Hopper"}
            ),
        }
    )
    made = base.model_copy(
        update={
            **variant.published,
            "name": name,
            "clocks": clocks,
            "knowledge": variant.knowledge,
            "uncertainty": Uncertainty(
                low_clock_power=variant.low_clock_power,
                decode_exponent=variant.decode_exponent,
                host_factor=1.6,
            ),
        }
    )
    made = _with_times(made, base, variant)
    made = made.model_copy(update={"power": _power(base, variant)})
    return b200.fitted(made) if fit and name == "b200-sxm" else made


def _with_times(made: HardwareProfile, base: HardwareProfile, variant: Variant) -> HardwareProfile:
    slower = base.max_clock_mhz / made.max_clock_mhz
    for section, names in CLOCKED_TIMES.items():
        fit = getattr(base, section)
        made = with_section(
            made, section, **{name: _round(getattr(fit, name) * slower) for name in names}
        )
    # Instructions take the cycles that they take, however fast the memory is meanwhile.
    faster_memory = made.memory_bandwidth / base.memory_bandwidth
    per_sm = base.sm_count / made.sm_count
    issue = _round(base.elementwise.issue_share * slower * faster_memory * per_sm)
    made = with_section(made, "elementwise", issue_share=issue)
    stretch = 1.0 if variant.keeps_voltage else 1 / slower
    knots = tuple(round(mhz * stretch) for mhz in base.bandwidth.clocks_mhz)
    made = made.model_copy(
        update={"bandwidth": base.bandwidth.model_copy(update={"clocks_mhz": knots})}
    )
    for section in (*_SECTIONS, "bandwidth"):
        own = getattr(made, section)
        words = own.provenance
        if "inferred" not in words.valid:
            words = words.model_copy(update={"valid": f"{variant.because}; there: {words.valid}"})
        elif variant.because not in words.valid:
            words = words.model_copy(update={"valid": f"{variant.because}; {words.valid}"})
        made = made.model_copy(update={section: own.model_copy(update={"provenance": words})})
    return made


def _power(base: HardwareProfile, variant: Variant) -> object:
    old, (low_mhz, high_mhz) = base.power, variant.clocks_mhz
    stretch = 1.0 if variant.keeps_voltage else high_mhz / base.max_clock_mhz
    voltage = _curve(old.voltage_mv, stretch, (low_mhz, high_mhz), 1.0)
    # Energies are counted at the highest clock, and follow the square of the voltage there.
    core = (voltage.at(high_mhz) / old.voltage_mv.at(base.max_clock_mhz)) ** 2
    moved = old.byte_fixed_share + (1 - old.byte_fixed_share) * core
    toggle = core * (high_mhz / base.max_clock_mhz if variant.keeps_voltage else 1.0)
    flop_pj = {
        kind: _round(variant.flop_share * core * pj)
        for kind, pj in old.flop_pj.items()
        if kind != "gemm_batched"
    }
    if "fp8" in variant.published["peak_flops"]:  # type: ignore[operator]
        flop_pj.setdefault("gemm_fp8", _round(0.5 * flop_pj["gemm_bf16"]))
    return old.model_copy(
        update={
            "idle_w": _curve(old.idle_w, stretch, (low_mhz, high_mhz), variant.power_share),
            "voltage_mv": voltage,
            "waiting_w": _round(variant.power_share * old.waiting_w),
            "toggle_w": _round(variant.power_share * toggle * old.toggle_w),
            "flop_pj": flop_pj,
            "byte_pj": {
                kind: _round(variant.byte_share * moved * pj) for kind, pj in old.byte_pj.items()
            },
            "valid": f"{variant.because}; there: {old.valid}",
        }
    )


def _curve(
    curve: ClockCurve, stretch: float, within_mhz: tuple[float, float], scale: float
) -> ClockCurve:
    low, high = within_mhz
    inner = [round(mhz * stretch) for mhz in curve.clocks_mhz if low < mhz * stretch < high]
    knots = (low, *inner, high)
    values = tuple(round(scale * curve.at(mhz / stretch), 2) for mhz in knots)
    return ClockCurve(clocks_mhz=tuple(map(float, knots)), values=values)


def _round(value: float) -> float:
    return float(np.format_float_scientific(value, precision=_SIGNIFICANT - 1))


def write_all() -> None:
    """Make all variants, and write their profiles."""
    for name in VARIANTS:
        (PROFILES / f"{name}.toml").write_text(profile_toml(board(name)), encoding="utf-8")
        print(f"{name}: written")
