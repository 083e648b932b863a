"""The frozen values that flow between predictors, controllers, routers and actuators.

Units stand in the names: ``_s`` seconds, ``_mhz`` megahertz, ``_w`` watts, ``_j`` joules. They are
converted only at a driver's edge. Values are immutable and keyword-only, and hold tuples, never
lists; NumPy arrays inside them are to be treated as read-only.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana_actuatord.quick import quickly_made
from voltana_actuatord.values import ActuatorStatus, Command, Domain, Health, Reading

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voltana.ports import PowerForecasts, PredictorSnapshot
    from voltana.promise import Margin, Promise

__all__ = [
    "EMPTY_QUEUE",
    "MAX_DEADLINE_BUCKETS",
    "NO_RESERVATION",
    "UNBOUNDED",
    "ActuatorStatus",
    "Binding",
    "Bounds",
    "Candidate",
    "Command",
    "DeadlineBucket",
    "Decision",
    "Deferral",
    "Domain",
    "Exposure",
    "FloatArray",
    "Forecast",
    "Health",
    "InstanceState",
    "Limit",
    "Load",
    "Need",
    "Observation",
    "Outcome",
    "Phase",
    "Queue",
    "Reading",
    "Request",
    "Reservation",
    "Role",
    "Status",
    "Table",
    "attended_pairs",
]

FloatArray = np.ndarray[tuple[int], np.dtype[np.float64]]
Table = np.ndarray[tuple[int, int], np.dtype[np.float64]]
"""Numbers by row and column."""

MAX_DEADLINE_BUCKETS = 32
"""A queue is reported in at most this many buckets, however long it is."""


class Binding(enum.StrEnum):
    """The constraint that a decision is as fast as it is for (docs/policies.md).

    NONE: no constraint; the cheapest level. THRESHOLD: the coming iteration has to fit its
    threshold. MEMORY: the batch has to settle within the KV cache, or waits for room in it.
    BOUNDARY: it has to settle below the end of a tile, beyond which no level serves it. VIABILITY:
    it is near that end, or beyond it, and must not grow. DEADLINE: prompts that wait have to be
    done in time. PACE: work has to be done as fast as it arrives. POWER_BUDGET: a faster level was
    wanted and would exceed the budget. UNCERTAINTY: the model does not bound the latency yet.
    """

    NONE = "none"
    THRESHOLD = "threshold"
    MEMORY = "memory"
    BOUNDARY = "boundary"
    VIABILITY = "viability"
    DEADLINE = "deadline"
    PACE = "pace"
    POWER_BUDGET = "power budget"
    UNCERTAINTY = "uncertainty"


class Phase(enum.StrEnum):
    """What an iteration computes."""

    IDLE = "idle"
    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"


class Role(enum.StrEnum):
    """What an instance is there for."""

    PREFILL = "prefill"
    DECODE = "decode"
    COLOCATED = "colocated"


class Status(enum.StrEnum):
    """What a decision promises (docs/architecture.md, "What a decision promises").

    CERTIFIED: the upper latency bound fits the budget at the slowest clock that may be in force.
    SATURATED: no permitted clock is safe, so the fastest permitted clock is used.
    VOID: nothing is promised (idle, uncalibrated, or a policy that does not look at the SLO).
    """

    CERTIFIED = "certified"
    SATURATED = "saturated"
    VOID = "void"


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one engine iteration computes; a mixed batch has all four parts.

    Attributes:
        prefill_tokens: New prompt tokens, summed over requests.
        prefill_attended_pairs: Query-key pairs that causal attention computes for those tokens:
            the sum over requests of new tokens times their mean context, that is
            ``new * cached + new * (new + 1) / 2``. It tells 4 x 8k from 32 x 1k.
        decode_requests: Requests that each produce one token.
        decode_kv_tokens: Tokens in their KV caches, summed.
    """

    prefill_tokens: int = 0
    prefill_attended_pairs: float = 0.0
    decode_requests: int = 0
    decode_kv_tokens: int = 0

    @classmethod
    def prefill(cls, chunks: Iterable[tuple[int, int]]) -> Load:
        """Build the load of a prefill batch.

        Args:
            chunks: A pair ``(new_tokens, cached_tokens)`` for each request.
        """
        tokens, pairs = 0, 0.0
        for new, cached in chunks:
            tokens += new
            pairs += attended_pairs(new, cached)
        return cls(prefill_tokens=tokens, prefill_attended_pairs=pairs)

    @classmethod
    def decode(cls, requests: int, kv_tokens: int) -> Load:
        """Build the load of a decode batch of `requests` with `kv_tokens` in their caches."""
        return cls(decode_requests=requests, decode_kv_tokens=kv_tokens)

    @property
    def phase(self) -> Phase:
        """The phase that this load belongs to."""
        if self.prefill_tokens and self.decode_requests:
            return Phase.MIXED
        if self.prefill_tokens:
            return Phase.PREFILL
        return Phase.DECODE if self.decode_requests else Phase.IDLE


def attended_pairs(new_tokens: int, cached_tokens: int = 0) -> float:
    """Query-key pairs of causal attention for `new_tokens` after `cached_tokens` of one request."""
    return new_tokens * cached_tokens + new_tokens * (new_tokens + 1) / 2


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineBucket:
    """Work of a prefill queue that must be done by a deadline, cumulative from the queue's front.

    Attributes:
        deadline_s: Earliest deadline in the bucket, on the observation's time axis.
        cumulative_tokens: Prompt tokens of this and all earlier buckets.
        cumulative_attended_pairs: Attended pairs of this and all earlier buckets.
        cumulative_batches: Engine iterations that this and all earlier buckets take.
    """

    deadline_s: float
    cumulative_tokens: int
    cumulative_attended_pairs: float
    cumulative_batches: int


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Requests that wait, not counting those in the batch that is about to run.

    Behind a prefill batch, or for room in the KV cache of a decode instance; not in transfer.

    Attributes:
        requests: Number of waiting requests.
        tokens: Their prompt tokens (prefill) or context tokens (decode).
        oldest_wait_s: Time since the arrival of the request that has waited longest, those of the
            batch included: it is what is gone of the TTFT budget.
        deadlines: At most `MAX_DEADLINE_BUCKETS` conservative buckets over the batches that the
            engine will form, in its order; empty where deadlines are unknown.
    """

    requests: int = 0
    tokens: int = 0
    oldest_wait_s: float = 0.0
    deadlines: tuple[DeadlineBucket, ...] = ()


EMPTY_QUEUE = Queue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A range of clocks that somebody imposes.

    Attributes:
        source: Who imposes it, such as ``operator`` or ``power-budget``.
        min_mhz: Lowest permitted clock.
        max_mhz: Highest permitted clock; where limits contradict each other the lowest cap wins.
        expires_at_s: Time from which the limit no longer holds.
    """

    source: str
    min_mhz: float = 0.0
    max_mhz: float = math.inf
    expires_at_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The range that results from all limits in force, and who set either end."""

    min_mhz: float = 0.0
    max_mhz: float = math.inf
    min_source: str = "device"
    max_source: str = "device"


UNBOUNDED = Bounds()


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a controller sees before an iteration.

    Attributes:
        instance: Name of the instance.
        sampled_at_s: When the sensors were read.
        now_s: The current time.
        load: What the next iteration computes; all zero when idle.
        queue: What waits behind it.
        clock_mhz: Achieved clock at `sampled_at_s`.
        target_mhz: Clock that was asked for last.
        power_w: Power at `sampled_at_s`; nan where unknown.
        bounds: Permitted range of clocks.
        last_latency_s: Latency of the last finished iteration; nan before the first.
        ended: What ended since the last observation, in the order in which it was known; None where
            nobody tells. An engine that works ahead launches an iteration before the one before has
            ended, so that a new observation does not mean that all earlier ones are over.
        slack_s: What a decode iteration may take for every request of its batch to keep its mean
            ITL; what any iteration of a colocated instance may take for the next tokens of the
            requests that are not in its batch to be in time. nan where nobody tells.
    """

    instance: str
    sampled_at_s: float
    now_s: float
    load: Load
    queue: Queue = EMPTY_QUEUE
    clock_mhz: float
    target_mhz: float
    power_w: float = math.nan
    bounds: Bounds = UNBOUNDED
    last_latency_s: float = math.nan
    ended: tuple[Outcome, ...] | None = None
    slack_s: float = math.nan


_BELOW = 0.9
"""Share of its slowest clock down to which a forecast speaks of slower ones."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forecast:
    """Latency of one load at many clocks.

    Attributes:
        clocks_mhz: Shape (n,), ascending.
        mean_s: Shape (n,), expected latency; inf where unknown.
        upper_s: Shape (n,), latency that is exceeded rarely; inf where unknown.
        margin: What a guarantee issued with it (docs/guarantee.md); None without one.
    """

    clocks_mhz: FloatArray
    mean_s: FloatArray
    upper_s: FloatArray
    margin: Margin | None = None

    def index_at(self, clock_mhz: float) -> int:
        """Index of the fastest forecast clock that is not above `clock_mhz`; -1 below all."""
        if not clock_mhz > 0:
            return -1
        return bisect_right(self.clocks_mhz, clock_mhz + 1e-9) - 1

    def standing_for(self, clock_mhz: float) -> tuple[int, float]:
        """Index of the forecast clock that stands for `clock_mhz`, and a factor on its latencies.

        Latency grows by no more than the clock falls. So between two clocks it is at most that of
        the slower one, and at most that of the faster one times what is lacking to it; the lesser
        holds. A little below all of them, as a device reads that does not quite reach its clock, it
        is the slowest. (-1, inf) for a clock that nothing was forecast for.
        """
        index = self.index_at(clock_mhz)
        clocks_mhz, count = self.clocks_mhz, len(self.clocks_mhz)
        if index == count - 1 or (index >= 0 and clocks_mhz[index] >= clock_mhz - 1e-9):
            return index, 1.0
        if not (count and clock_mhz >= _BELOW * clocks_mhz[0]):
            return -1, math.inf
        factor = float(clocks_mhz[index + 1]) / clock_mhz
        if index >= 0 and not self.mean_s[index + 1] * factor < self.mean_s[index]:
            return index, 1.0
        return index + 1, factor

    def upper_at(self, clock_mhz: float) -> float:
        """Upper bound at the fastest forecast clock that is not above `clock_mhz`; inf below all.

        A slower clock takes longer, so rounding down keeps the bound a bound. An unknown clock
        (nan) has none.
        """
        index = bisect_right(self.clocks_mhz, clock_mhz + 1e-9) - 1
        return float(self.upper_s[index]) if index >= 0 and clock_mhz > 0 else math.inf

    def mean_at(self, clock_mhz: float) -> float:
        """Mean at the fastest forecast clock that is not above `clock_mhz`; inf below all."""
        index = bisect_right(self.clocks_mhz, clock_mhz + 1e-9) - 1
        return float(self.mean_s[index]) if index >= 0 and clock_mhz > 0 else math.inf


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """What a controller wants, and what that promises.

    Attributes:
        clock_mhz: The clock that is wanted.
        reason: Why, in a few words of a closed vocabulary, such as ``lowest safe level``.
        status: Certified, saturated or void. A controller's own claim is provisional: the loop
            certifies after the clamp, at the slowest clock that may be in force.
        forecast: The forecast that the decision stands on, as issued; None if it used none.
        budget_s: Latency that the coming iteration may take; inf where there is none.
        promise: What the loop settled, where the forecast carries a margin; set by the loop alone.
        binding: The constraint that set the clock.
    """

    clock_mhz: float
    reason: str
    status: Status = Status.VOID
    forecast: Forecast | None = None
    budget_s: float = math.inf
    promise: Promise | None = None
    binding: Binding = Binding.NONE


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an iteration really took; the label that predictors learn from.

    Attributes:
        load: What was computed.
        clock_mhz: Mean clock that was achieved during the iteration.
        latency_s: Measured latency.
        ended_at_s: When it ended.
        decision: The decision as issued before the iteration, its forecast included.
    """

    load: Load
    clock_mhz: float
    latency_s: float
    ended_at_s: float
    decision: Decision | None = None


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Part of an energy window: how long one load ran at one clock (an idle stretch included)."""

    load: Load
    clock_mhz: float
    duration_s: float


class Prefix(NamedTuple):
    """What of a prompt others may share.

    Attributes:
        ids: A number for each block of the prompt from its beginning, the last one of which may be
            cut; equal numbers stand for equal tokens after equal tokens.
        block_tokens: Tokens of a block.
    """

    ids: tuple[int, ...]
    block_tokens: int


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as a router sees it when it arrives.

    Attributes:
        request_id: Unique in a run.
        arrived_at_s: Arrival time.
        prompt_tokens: Length of the prompt.
        expected_output_tokens: A guess of the answer's length; None where there is none.
        slo_class: Name of the SLO that it is served under.
        slack_s: How long it may be held from now on: inf before anybody has priced that, 0 where it
            has to be sent on now, so that a router must not answer with a `Deferral`.
        waited_s: How long it has been held so far, which is gone of its TTFT budget.
        prefix: By what its prompt may be found in prefix caches; None where it does not say.
    """

    request_id: int
    arrived_at_s: float
    prompt_tokens: int
    expected_output_tokens: float | None = None
    slo_class: str = "default"
    slack_s: float = 0.0
    waited_s: float = 0.0
    prefix: Prefix | None = None


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Deferral:
    """A router's answer that a request is better held back for now than sent to any instance.

    Attributes:
        for_s: Time after which the router wants to be asked again, above 0 and finite. It is asked
            earlier when a request completes, and for the last time when the slack is used up.
        reason: Why, in a few words of a closed vocabulary, such as ``every batch at its boundary``.
    """

    for_s: float
    reason: str


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What the dispatcher's ledger holds against an instance: sent there, not yet reported by it.

    Attributes:
        requests: Requests in flight towards the instance.
        prompt_tokens: Their prompt tokens.
    """

    requests: int = 0
    prompt_tokens: int = 0


NO_RESERVATION = Reservation()


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceState:
    """What an instance last reported of itself.

    Attributes:
        running_requests: Requests that decode in its batch.
        kv_tokens: Tokens in their KV caches.
        queued_requests: Requests that wait there.
        queued_tokens: Their context tokens (decode) or prompt tokens, those of a prefill batch that
            runs included: what is pending.
        clock_mhz: Achieved clock.
        oldest_wait_s: Longest wait there, those of a prefill batch that runs included.
    """

    running_requests: int = 0
    kv_tokens: int = 0
    queued_requests: int = 0
    queued_tokens: int = 0
    clock_mhz: float
    oldest_wait_s: float = 0.0


class Need(enum.StrEnum):
    """What a router needs of every candidate to route as it is meant to.

    LATENCY: a latency model. POWER: a power model. LEVELS: the clocks that may be chosen. BUDGET: a
    latency budget. KV_CAPACITY: the size of the KV cache.
    """

    LATENCY = "latency model"
    POWER = "power model"
    LEVELS = "levels"
    BUDGET = "latency budget"
    KV_CAPACITY = "KV capacity"


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a router knows of an instance.

    Attributes:
        instance: Its name.
        role: What it is there for.
        state: What it last reported.
        state_age_s: How old that report is.
        reserved: What was sent there since and is not in the report.
        reserved_for_s: How long the oldest of that has waited to be taken up: what the instance's
            host takes before its scheduler sees a request. 0 where nothing is reserved.
        predictor: Frozen latency model of the instance; None where it has none yet.
        levels_mhz: Clocks that its controller may choose, ascending; shape (n,).
        budget_s: Latency budget of one of its iterations (the ITL SLO, or the TTFT SLO).
        in_flight: Requests that were sent to it since their arrival and are not finished, wherever
            they are now (a decode instance counts those that are still being prefilled).
        power: Power model of the instance, to be asked for forecasts only; None where it has none.
        kv_capacity_tokens: Tokens that its KV cache holds; inf where unknown.
        kv_reserved_tokens: Tokens that its engine keeps free in it for each request.
        held: KV caches that it keeps for requests which have left it, until they are pulled: of a
            prefill instance, and in no report of it.
    """

    instance: str
    role: Role
    state: InstanceState
    state_age_s: float = 0.0
    reserved: Reservation = NO_RESERVATION
    reserved_for_s: float = 0.0
    predictor: PredictorSnapshot | None = None
    levels_mhz: tuple[float, ...] = ()
    budget_s: float = math.inf
    in_flight: int = 0
    power: PowerForecasts | None = None
    kv_capacity_tokens: float = math.inf
    kv_reserved_tokens: float = 0.0
    held: Reservation = NO_RESERVATION
