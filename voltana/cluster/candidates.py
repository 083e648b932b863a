"""What routers are shown of an instance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from voltana.cluster.context import LIMITS_UNKNOWN, EngineLimits
from voltana.ports import FreezesPower, HoldsPredictor, offers
from voltana.values import Candidate, InstanceState
from voltana_actuatord.quick import changer, maker

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.cluster.ledger import Ledger
    from voltana.loop import ControlLoop
    from voltana.ports import PowerForecasts, PowerPredictor, Predictor, PredictorSnapshot
    from voltana.values import Role

make_candidate = maker(Candidate)
instance_state = maker(InstanceState)
"""What an instance reports of itself, in the simulated plant and beside engines."""

ran_on = changer(InstanceState, "computing_for_s")

as_seen_now = changer(
    Candidate,
    "state",
    "state_age_s",
    "reserved",
    "reserved_for_s",
    "host_s",
    "in_flight",
    "ends_per_s",
    "ended_meanwhile",
    "held",
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFacts:
    """What of an instance changes seldom, beside its state, which changes with every iteration.

    Attributes:
        predictor: Frozen latency model; None where it has none.
        power: Power model, frozen where it can be; None where it has none.
        levels_mhz: Clocks that its controller may choose, ascending.
        budget_s: Latency budget of one of its iterations; inf where unknown.
        limits: What its engine takes at once.
        ttft_s: What a first token may take; inf where unknown.
    """

    predictor: PredictorSnapshot | None = None
    power: PowerForecasts | None = None
    levels_mhz: tuple[float, ...] = ()
    budget_s: float = math.inf
    limits: EngineLimits = LIMITS_UNKNOWN
    ttft_s: float = math.inf
    _seen: list[Candidate] = field(default_factory=list, init=False, repr=False, compare=False)

    def of(self, instance: str, role: Role, state: InstanceState) -> Candidate:
        """The instance of which they hold, as it was seen first: what changes often is stale."""
        seen = self._seen
        if not seen or seen[0].instance != instance or seen[0].role is not role:
            limits = self.limits
            seen[:] = (
                make_candidate(
                    instance=instance,
                    role=role,
                    state=state,
                    predictor=self.predictor,
                    levels_mhz=self.levels_mhz,
                    budget_s=self.budget_s,
                    power=self.power,
                    kv_capacity_tokens=limits.kv_capacity_tokens,
                    kv_reserved_tokens=limits.kv_reserved_tokens,
                    max_running_requests=limits.max_running_requests,
                    max_batch_tokens=limits.max_batch_tokens,
                    prompts_first=limits.prompts_first,
                    ttft_s=self.ttft_s,
                ),
            )
        return seen[0]


NOTHING_KNOWN = InstanceFacts()


def instance_facts(
    predictor: Predictor | None,
    power: PowerPredictor | None,
    *,
    levels_mhz: tuple[float, ...],
    budget_s: float,
    limits: EngineLimits,
    ttft_s: float = math.inf,
    failed: Callable[[str, Exception], None] | None = None,
) -> InstanceFacts:
    """What an instance knows now, its models frozen.

    Args:
        predictor: Latency model; see `latency_model`.
        power: Power model; one that cannot be frozen is shown as it is.
        levels_mhz: Clocks that its controller may choose.
        budget_s: Latency budget of one iteration.
        limits: What its engine takes at once.
        ttft_s: What a first token may take.
        failed: Told of a model that fails at being frozen, which is then left out; None raises.
    """
    frozen_power: PowerForecasts | None = power
    if power is not None and offers(power, FreezesPower):
        frozen_power = _frozen(power.snapshot, "power model", failed)
    return InstanceFacts(
        predictor=None
        if predictor is None
        else _frozen(predictor.snapshot, "latency model", failed),
        power=frozen_power,
        levels_mhz=levels_mhz,
        budget_s=budget_s,
        limits=limits,
        ttft_s=ttft_s,
    )


def _frozen(
    freeze: Callable[[], _T], kind: str, failed: Callable[[str, Exception], None] | None
) -> _T | None:
    try:
        return freeze()
    except Exception as error:  # a user's model may raise anything
        if failed is None:
            raise
        failed(kind, error)
        return None


def latency_model(loop: ControlLoop) -> Predictor | None:
    """The model that a loop teaches, or the fixed one that its controller decides by."""
    if loop.predictor is not None:
        return loop.predictor
    controller = loop.controller
    return controller.predictor if isinstance(controller, HoldsPredictor) else None


def candidate(
    ledger: Ledger,
    *,
    instance: str,
    role: Role,
    state: InstanceState,
    facts: InstanceFacts,
    now_s: float,
    state_age_s: float = 0.0,
) -> Candidate:
    """An instance as routers see it.

    Args:
        ledger: What was sent there.
        instance: Its name.
        role: What it is there for.
        state: What it last reported; a batch that it computed then has run on since.
        facts: What of it changes seldom.
        now_s: The dispatcher's time.
        state_age_s: Age of the report; inf where there is none, so that all that is in flight
            counts as reserved.
    """
    account = ledger.account(instance)
    if state.computing_tokens and 0.0 < state_age_s < math.inf:
        state = ran_on(state, computing_for_s=state.computing_for_s + state_age_s)
    return as_seen_now(
        facts.of(instance, role, state),
        state=state,
        state_age_s=state_age_s,
        reserved=account.total() if state_age_s == math.inf else account.reserved(),
        reserved_for_s=account.reserved_for_s(now_s),
        host_s=account.pace.each_s,
        in_flight=account.requests,
        ends_per_s=account.ends.per_s,
        ended_meanwhile=account.ended_meanwhile(),
        held=ledger.caches.held(instance, now_s),
    )
