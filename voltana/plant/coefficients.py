"""The sections of a hardware profile: clocks, bandwidth, and the coefficients of each operator."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

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
