"""What a router sees, and what it answers."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from voltana_actuatord.quick import changer, maker, quickly_made

if TYPE_CHECKING:
    from voltana.ports import PowerForecasts, PredictorSnapshot


class Role(enum.StrEnum):
    """What an instance is there for."""

    PREFILL = "prefill"
    DECODE = "decode"
    COLOCATED = "colocated"


PREFILL, DECODE = Role.PREFILL, Role.DECODE
"""For what every request and iteration does, as `voltana.values.control.CERTIFIED`."""


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
        late_share: Share of all requests that may be late for it. One that is late in any case may
            wait on, within that, rather than go where it makes others late: 1 where nothing is
            lacking than room, so that it would take the place that another one would have found.
    """

    for_s: float
    reason: str
    late_share: float = 0.0


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


make_reservation = maker(Reservation)

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
        demand_per_s: Tokens/s that it is asked for, as its controller measures them; None where it
            does not tell.
        ttft_margin: Share by which first tokens come later than the prompts pending before them say
            in one case of a hundred, as its promises have learned; 0 where nothing is promised.
        computing_tokens: Of the queued prompt tokens, those of a prefill batch that runs, with no
            request that decodes beside.
        computing_for_s: For how long it has run.
    """

    running_requests: int = 0
    kv_tokens: int = 0
    queued_requests: int = 0
    queued_tokens: int = 0
    clock_mhz: float
    oldest_wait_s: float = 0.0
    demand_per_s: float | None = None
    ttft_margin: float = 0.0
    computing_tokens: int = 0
    computing_for_s: float = 0.0


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class IntendedDemand:
    """What a router intends an instance to be asked for, as long as nothing changes.

    Attributes:
        pool_per_s: Output tokens/s that all instances of its role are asked for together.
        share: Of that, what this one is to have.
        held_s: For how long requests may be held back while every instance is at its boundary; 0
            where none are. A router says inf for as long as their deadlines leave.
    """

    pool_per_s: float
    share: float
    held_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Output tokens/s that the instance is to be asked for."""
        return self.pool_per_s * self.share


held_for = changer(IntendedDemand, "held_s")
asked_for = changer(IntendedDemand, "pool_per_s")


class Need(enum.StrEnum):
    """What a router needs of every candidate to route as it is meant to.

    LATENCY: a latency model. POWER: a power model. LEVELS: the clocks that may be chosen. BUDGET: a
    latency budget. KV_CAPACITY: the size of the KV cache, and what its engine runs at once.
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
        host_s: What that host takes over one prompt, which it prepares one after the other; 0 where
            that is not known, as before one had to wait for another.
        predictor: Frozen latency model of the instance; None where it has none yet.
        levels_mhz: Clocks that its controller may choose, ascending; shape (n,).
        budget_s: Latency budget of one of its iterations (the ITL SLO, or the TTFT SLO).
        in_flight: Requests that were sent to it since their arrival and are not finished, wherever
            they are now (a decode instance counts those that are still being prefilled).
        ends_per_s: Requests that end on it per second; 0 where that is not known.
        ended_meanwhile: Requests that have ended on it since one of what is reserved was sent, on
            average of these; 0 where nothing is reserved.
        power: Power model of the instance, to be asked for forecasts only; None where it has none.
        kv_capacity_tokens: Tokens that its KV cache holds; inf where unknown.
        kv_reserved_tokens: Tokens that its engine keeps free in it for each request.
        max_running_requests: Requests that its engine runs at once; inf where unknown.
        max_batch_tokens: Prompt tokens that its engine computes at once, likewise.
        prompts_first: Whether its engine computes prompts before those that run get their next
            tokens, so that all prompts which come between two tokens share that gap.
        ttft_s: What a first token may take; inf where unknown.
        held: KV caches that it keeps for requests which have left it, until they are pulled: of a
            prefill instance, and in no report of it.
    """

    instance: str
    role: Role
    state: InstanceState
    state_age_s: float = 0.0
    reserved: Reservation = NO_RESERVATION
    reserved_for_s: float = 0.0
    host_s: float = 0.0
    predictor: PredictorSnapshot | None = None
    levels_mhz: tuple[float, ...] = ()
    budget_s: float = math.inf
    in_flight: int = 0
    ends_per_s: float = 0.0
    ended_meanwhile: float = 0.0
    power: PowerForecasts | None = None
    kv_capacity_tokens: float = math.inf
    kv_reserved_tokens: float = 0.0
    max_running_requests: float = math.inf
    max_batch_tokens: float = math.inf
    prompts_first: bool = False
    ttft_s: float = math.inf
    held: Reservation = NO_RESERVATION
