"""Hardware profiles: what a board can do, read from a data file.

A profile holds published numbers (memory, peak rates, clocks) and calibrated coefficients. Each
calibrated section says where its numbers come from, how well they fit and where they hold.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from voltana.errors import ProfileError, unknown_name
from voltana.plant.hardware_class import CLASSES, Architecture
from voltana.plant.power import PowerCoefficients  # noqa: TC001 (pydantic reads the type)

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A frozen part of a profile that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Provenance(Section):
    """Where coefficients come from.

    Attributes:
        source: Measurement or document.
        residual: How well they fit it, in words with figures.
        valid: Where they hold, and what is inferred.
    """

    source: str
    residual: str
    valid: str


class ClockChange(Section):
    """How long one change of clock takes.

    Attributes:
        from_mhz: Clock before.
        to_mhz: Clock after.
        call_s: Median duration of the driver's call.
        settle_s: Time after the call until the clock is in force.
    """

    from_mhz: Positive
    to_mhz: Positive
    call_s: NonNegative
    settle_s: NonNegative


class Clocks(Section):
    """Supported SM clocks, evenly spaced.

    Attributes:
        min_mhz: Lowest supported clock.
        max_mhz: Highest supported clock.
        step_mhz: Distance between two clocks.
        call_s: Median duration of the driver's call that changes a clock.
        settle_s: Time after the call until the clock is in force; None for the architecture's.
        pairs: The same for each pair of levels, where `voltana actuator doctor` measured them.
    """

    min_mhz: Positive
    max_mhz: Positive
    step_mhz: Positive
    call_s: NonNegative
    settle_s: NonNegative | None = None
    pairs: tuple[ClockChange, ...] = ()
    provenance: Provenance


class BandwidthCurve(Section):
    """Memory bandwidth against the SM clock, as a share of that at the highest clock.

    Attributes:
        clocks_mhz: Clocks, ascending.
        share: Share of the bandwidth there; linear between, constant above.
    """

    clocks_mhz: tuple[float, ...]
    share: tuple[float, ...]
    provenance: Provenance


class GemmCoefficients(Section):
    """Coefficients of `voltana.plant.gemm`.

    Attributes:
        efficiency: Share of the peak that a 128 x 256 tile reaches in a long product.
        tile_penalty: Loss of smaller tiles, which reuse what they load less.
        fill_depth: Depth in elements that filling the pipeline of a tile is worth.
        split_cost: Traffic of a split product's partial sums, relative to reading and writing
            them in memory once.
        bandwidth_share: Share of the peak bandwidth that streaming the operands reaches.
        kernel_s: Start and end of a kernel at the highest clock.
        grouped_kernel_s: What a kernel over many experts takes in addition, to find each tile's.
        overlap: Exponent of the smooth maximum of compute and memory.
    """

    efficiency: Positive
    tile_penalty: NonNegative
    fill_depth: NonNegative
    split_cost: NonNegative
    bandwidth_share: Positive
    kernel_s: NonNegative
    grouped_kernel_s: NonNegative = 0.0
    overlap: Positive
    provenance: Provenance


class PrefillAttentionCoefficients(Section):
    """Coefficients of `voltana.plant.attention.prefill_cost`.

    Attributes:
        efficiency: Share of the peak on tiles of 128 queries.
        query_passes: Times that queries and outputs are moved.
        kv_passes: Times that new keys and values are moved.
        kernel_s: Start and end of a layer's kernels at the highest clock.
    """

    efficiency: Positive
    query_passes: NonNegative
    kv_passes: NonNegative
    kernel_s: NonNegative
    provenance: Provenance


class DecodeAttentionCoefficients(Section):
    """Coefficients of `voltana.plant.attention.decode_cost`.

    Attributes:
        token_s: Time of one SM for one cached token of one KV head of width 128, highest clock.
        unit_s: Time of one SM to start and end one KV head of one request, highest clock.
        bandwidth_share: Share of the peak bandwidth that reading the cache reaches.
        kernel_s: Start and end of a layer's kernels at the highest clock.
        overlap: Exponent of the smooth maximum of compute and memory.
        backend_sm_share: SM time (`token_s`, `unit_s`) of the attention backend that the engine
            uses on this board, over that of the kernels which were measured.
    """

    token_s: NonNegative
    unit_s: NonNegative
    bandwidth_share: Positive
    kernel_s: NonNegative
    overlap: Positive
    backend_sm_share: Positive = 1.0
    provenance: Provenance


class ElementwiseCoefficients(Section):
    """Coefficients of `voltana.plant.elementwise`.

    Attributes:
        bandwidth_share: Share of the peak bandwidth that streaming reaches.
        issue_share: Time of the SMs' instructions at the highest clock, relative to that of the
            memory.
        row_s: Time per element of a row, at the highest clock: one block works on a row, so a
            single row is not faster than that.
        kernel_s: Start and end of a kernel at the highest clock.
        overlap: Exponent of the smooth maximum of compute and memory.
    """

    bandwidth_share: Positive
    issue_share: NonNegative
    row_s: NonNegative
    kernel_s: NonNegative
    overlap: Positive
    provenance: Provenance


class CollectiveCoefficients(Section):
    """Coefficients of `voltana.plant.collective`.

    Attributes:
        one_shot_s: Latency of a sum in which every board reads all others.
        two_shot_s: Latency of a sum that scatters first and gathers then.
        ring_s: Latency that messages above `ring_bytes` have in addition.
        ring_bytes: Largest message of the custom kernels.
        bandwidth_share: Share of the link's bandwidth that a sum reaches.
        transfer_s: Latency of a transfer between two boards.
        transfer_bandwidth_share: Share of the link's bandwidth that a transfer reaches.
    """

    one_shot_s: NonNegative
    two_shot_s: NonNegative
    ring_s: NonNegative
    ring_bytes: Positive
    bandwidth_share: Positive
    transfer_s: NonNegative
    transfer_bandwidth_share: Positive
    provenance: Provenance


class LaunchCoefficients(Section):
    """What the host adds to an iteration, independent of the SM clock.

    Attributes:
        iteration_s: Host work of one iteration that the device waits for.
        graph_batches: Batch sizes that a CUDA graph was captured for; a smaller decode batch is
            padded to the next one.
    """

    iteration_s: NonNegative
    graph_batches: tuple[int, ...]
    provenance: Provenance


class HostCoefficients(Section):
    """What an engine's host does between and beside iterations, at no clock of the board.

    Attributes:
        request_s: Work on each request of a prefill instance before it can be scheduled (HTTP,
            tokens, the handshake with the decode instance), one after the other, while the device
            computes.
        step_s: Work on each decode iteration (scheduling, inputs), while the device computes the
            one before.
        token_s: Work on each token of a decode iteration (stop conditions, output), likewise.
    """

    request_s: NonNegative
    step_s: NonNegative
    token_s: NonNegative
    provenance: Provenance


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


def names(kind: str) -> list[str]:
    """Names of the shipped profiles of a kind."""
    folder = files("voltana.plant") / "data" / _FOLDERS[kind]
    return sorted(
        item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")
    )


_FOLDERS = {"hardware": "hardware", "model": "models"}


def read_profile(kind: str, name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """Read the TOML of a shipped profile, or of a file; returns the table and where it is from.

    Raises:
        UnknownNameError: If there is no such profile.
        ProfileError: If the file is not TOML.
    """
    text = str(name_or_path)
    try:
        return tomllib.loads(profile_text(name_or_path, kind)), text
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(
            f"{kind} profile {text} is not TOML: {error}. Correct the file."
        ) from None


def profile_text(name_or_path: str | Path, kind: str = "hardware") -> str:
    """The TOML text of a shipped profile, or of a file.

    Raises:
        UnknownNameError: If there is no such profile.
        ProfileError: If the file cannot be read, or is no text.
    """
    text = str(name_or_path)
    known = names(kind)
    if text in known:
        item = files("voltana.plant") / "data" / _FOLDERS[kind] / f"{text}.toml"
        return item.read_text(encoding="utf-8")
    path = Path(text)
    if path.suffix == ".toml" and path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ProfileError(
                f"{kind} profile {text} cannot be read: {error}. Name a TOML file in UTF-8."
            ) from None
    raise unknown_name(kind, text, known)


_SectionT = TypeVar("_SectionT", bound=Section)


def parse(kind: type[_SectionT], table: dict[str, Any], origin: str) -> _SectionT:
    """Build a profile from a table.

    Raises:
        ProfileError: If keys are missing, unknown or out of range; the text names the first one.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ProfileError(
            f"profile {origin}: {where}: {first['msg']}. Correct that key in the profile."
        ) from None
