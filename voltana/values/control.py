"""What a controller sees, what it decides, and what came of it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.values.work import EMPTY_QUEUE
from voltana_actuatord.quick import quickly_made

if TYPE_CHECKING:
    from voltana.promise import Promise
    from voltana.values.forecast import Forecast
    from voltana.values.routing import IntendedDemand
    from voltana.values.work import Load, Queue


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


class Status(enum.StrEnum):
    """What a decision promises (docs/architecture.md, "What a decision promises").

    CERTIFIED: the upper latency bound fits the budget at the slowest clock that may be in force.
    SATURATED: no permitted clock is safe, so the fastest permitted clock is used.
    VOID: nothing is promised (idle, uncalibrated, or a policy that does not look at the SLO).
    """

    CERTIFIED = "certified"
    SATURATED = "saturated"
    VOID = "void"


CERTIFIED = Status.CERTIFIED
"""For what every iteration does: before Python 3.12 a member of an enumeration, asked of it, takes
longer than a call."""


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
            ITL; what any iteration of a colocated instance may take for the next tokens of its
            requests to be in time, in its batch or not. nan where nobody tells.
        intended: What its router intends the instance to be asked for; None where nobody tells.
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
    intended: IntendedDemand | None = None


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
