"""Pure search for operating points, shared by controllers and routers.

Nothing here keeps state or looks at a live component: forecasts and frozen candidates come in,
operating points go out.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana.errors import invalid
from voltana.ports import TellsCurve, TellsExpected, offers
from voltana.promise import Promise
from voltana.values import Binding, Decision, Load, Role, Status
from voltana.values.control import CERTIFIED
from voltana.values.routing import PREFILL
from voltana.values.work import make_load
from voltana_actuatord.quick import maker, tuple_maker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Forecasts, LatencyCurve
    from voltana.values import Candidate, FloatArray, Forecast, Request


make_decision = maker(Decision)
make_promise = maker(Promise)

LET_IN_BY = 0.5
"""Share of its deadline by which a request that waits for room is to be let in; the rest is for
those behind it, and for chance: fewer may end than are expected to."""

GROWTH_TOKENS = 600.0
"""Room that a request usually takes or keeps on top of its context."""


def lowest_safe_index(upper_s: FloatArray, budget_s: float) -> int | None:
    """Index of the slowest clock whose upper latency bound fits; None if there is none.

    Args:
        upper_s: Upper bounds over ascending clocks, shape (n,).
        budget_s: What the iteration may take.
    """
    if len(upper_s) and upper_s[0] <= budget_s:  # mostly
        return 0
    safe = upper_s <= budget_s
    index = int(safe.argmax())
    return index if safe[index] else None


def cheapest_safe_index(upper_s: FloatArray, cost: FloatArray, budget_s: float) -> int | None:
    """Index of the cheapest clock whose upper latency bound fits; None if there is none."""
    safe = upper_s <= budget_s
    first = int(safe.argmax())
    if not safe[first]:
        return None
    if first:
        safe, cost = safe[first:], cost[first:]
    # Mostly all clocks from the first safe one on are safe.
    if not np.logical_and.reduce(safe):
        cost = np.where(safe, cost, math.inf)
    index = int(cost.argmin())
    return first + index if cost[index] < math.inf else None


def lowest_safe_decision(forecast: Forecast, budget_s: float) -> Decision:
    """The slowest safe clock of a forecast, else its fastest."""
    index = lowest_safe_index(forecast.upper_s, budget_s)
    return make_decision(
        clock_mhz=float(forecast.clocks_mhz[-1 if index is None else index]),
        reason="no safe level: fastest" if index is None else "lowest safe level",
        status=Status.SATURATED if index is None else CERTIFIED,
        forecast=forecast,
        budget_s=budget_s,
        binding=Binding.THRESHOLD,
    )


def certified_status(
    forecast: Forecast | None, budget_s: float, *, clock_mhz: float, achieved_mhz: float
) -> Status:
    """What a decision promises once the core has clamped its clock.

    Evaluated at the slowest clock that may be in force until the change has settled, that is
    ``min(requested, achieved)``. A forecast that is safe at the clock asked for but not yet at the
    one in force promises nothing.

    Args:
        forecast: As issued; None or an unbounded one promises nothing.
        budget_s: What the iteration may take; inf means that nothing was promised.
        clock_mhz: Clock after the clamp.
        achieved_mhz: Clock that was measured last; nan counts as settled.
    """
    return _status(forecast, budget_s, clock_mhz, slowest_in_force_mhz(clock_mhz, achieved_mhz))


def _status(
    forecast: Forecast | None, budget_s: float, clock_mhz: float, in_force_mhz: float
) -> Status:
    if forecast is None or budget_s == math.inf:
        return Status.VOID
    if _certifies(forecast, in_force_mhz, budget_s):
        return CERTIFIED
    return Status.VOID if _certifies(forecast, clock_mhz, budget_s) else Status.SATURATED


def slowest_in_force_mhz(clock_mhz: float, achieved_mhz: float) -> float:
    """Slowest clock at which an iteration may run until a change to `clock_mhz` has settled."""
    return achieved_mhz if 0 < achieved_mhz < clock_mhz else clock_mhz


def _certifies(forecast: Forecast, clock_mhz: float, budget_s: float) -> bool:
    """Whether the bound fits at a clock, and the margin that was issued with it may certify.

    The bound of a margin is worked out again, as its label will be scored: what a controller has
    made of `upper_s`, or single precision has rounded off it, must not certify what is not scored.
    """
    index, factor = forecast.standing_for(clock_mhz)
    if index < 0 or not forecast.upper_s[index] * factor <= budget_s:
        return False
    margin = forecast.margin
    if margin is None:
        return True
    part = margin.part_at(float(forecast.clocks_mhz[index]))
    mean_s = float(forecast.mean_s[index]) * factor
    return part.certifiable and margin.bound_s(part, mean_s) <= budget_s


def settle(
    proposal: Decision,
    *,
    clock_mhz: float,
    achieved_mhz: float,
    fastest_mhz: float,
    issuer: str,
    sequence: int,
) -> Decision:
    """A decision after the clamp: with its clock, what it really promises, and as what.

    Args:
        proposal: What the controller wants.
        clock_mhz: Clock after the clamp.
        achieved_mhz: Slowest clock from before that may still be in force; nan counts as settled.
        fastest_mhz: Fastest permitted clock.
        issuer: Who numbers decisions.
        sequence: Number of this one.
    """
    forecast = proposal.forecast
    in_force_mhz = slowest_in_force_mhz(clock_mhz, achieved_mhz)
    status = _status(forecast, proposal.budget_s, clock_mhz, in_force_mhz)
    promise = None
    if forecast is not None and forecast.margin is not None:
        promise = make_promise(
            issuer=issuer,
            sequence=sequence,
            in_force_mhz=in_force_mhz,
            fastest_mhz=fastest_mhz,
        )
    elif clock_mhz == proposal.clock_mhz and status is proposal.status:
        return proposal
    return make_decision(
        clock_mhz=clock_mhz,
        reason=proposal.reason,
        status=status,
        forecast=forecast,
        budget_s=proposal.budget_s,
        promise=promise,
        binding=proposal.binding,
    )


def candidate_load(candidate: Candidate) -> Load:
    """Load of an instance's next iteration, its reservations included."""
    if candidate.role is PREFILL:
        return pending_prompts(candidate)
    state, reserved = candidate.state, candidate.reserved
    return make_load(
        decode_requests=state.running_requests + reserved.requests,
        decode_kv_tokens=state.kv_tokens + reserved.prompt_tokens,
    )


def pending_prompts(candidate: Candidate) -> Load:
    """All prompts that an instance has yet to compute, those on their way there included."""
    state, reserved = candidate.state, candidate.reserved
    tokens = state.queued_tokens + reserved.prompt_tokens
    requests = state.queued_requests + reserved.requests
    parts = 2 * requests if requests > 1 else 2
    return make_load(prefill_tokens=tokens, prefill_attended_pairs=tokens * tokens / parts)


def require_pending_share(share: float) -> float:
    """`share` of a threshold that pending prompts may take, if it is one.

    Raises:
        ConfigError: If that is not in 0 to 1.
    """
    if not 0 <= share <= 1:
        raise invalid("share", share, "0 to 1", "0.5 leaves room for a batch that runs.")
    return share


class Upcoming(NamedTuple):
    """An instance's next iteration, as routers that ask its model about it share it.

    Attributes:
        load: Its load, reservations included.
        curve: Its latency against the clock; None where a model does not tell it for less.
    """

    load: Load
    curve: LatencyCurve | None


make_upcoming = tuple_maker(Upcoming)


def upcoming(candidate: Candidate) -> Upcoming:
    """The next iteration of an instance."""
    load, predictor = candidate_load(candidate), candidate.predictor
    return make_upcoming(load, None if predictor is None else curve_of(predictor, load))


def host_line_s(candidate: Candidate) -> float:
    """What its host takes before its scheduler sees one prompt more: as long as the oldest waits.

    Or as what is not prepared yet takes, where it is known what each does.
    """
    return max(candidate.reserved_for_s, candidate.host_s * candidate.reserved.requests)


def memory_tokens(candidate: Candidate, tokens_per_request: float = GROWTH_TOKENS) -> float:
    """KV cache that a decode instance needs for all that was sent there.

    Args:
        candidate: The instance.
        tokens_per_request: Room that a request takes or keeps on top of its context: what it may
            still produce, and what the engine reserves for it.
    """
    state, reserved = candidate.state, candidate.reserved
    tokens = state.kv_tokens + state.queued_tokens + reserved.prompt_tokens
    return tokens + tokens_per_request * requests_of(candidate)


def requests_of(candidate: Candidate) -> int:
    """All that is or will be in its batch, what is still being prefilled included."""
    state, in_flight = candidate.state, candidate.in_flight
    reported = state.running_requests + state.queued_requests + candidate.reserved.requests
    return reported if reported > in_flight else in_flight


def load_with(load: Load, request: Request, role: Role) -> Load:
    """`load` after one more request has joined it."""
    prompt = request.prompt_tokens
    if role is Role.PREFILL:
        return make_load(
            prefill_tokens=load.prefill_tokens + prompt,
            prefill_attended_pairs=load.prefill_attended_pairs + prompt * (prompt + 1) / 2,
            decode_requests=load.decode_requests,
            decode_kv_tokens=load.decode_kv_tokens,
        )
    return make_load(
        prefill_tokens=load.prefill_tokens,
        prefill_attended_pairs=load.prefill_attended_pairs,
        decode_requests=load.decode_requests + 1,
        decode_kv_tokens=load.decode_kv_tokens + prompt,
    )


def in_batches(load: Load, most_tokens: float) -> tuple[float, Load]:
    """How many batches the prompts of a load fill, at least one, and an equal one of these.

    Args:
        load: What is to be computed; what decodes beside stays beside each batch.
        most_tokens: Prompt tokens of a batch.
    """
    batches = load.prefill_tokens / most_tokens
    if not batches > 1.0:
        return 1.0, load
    return batches, make_load(
        prefill_tokens=max(round(load.prefill_tokens / batches), 1),
        prefill_attended_pairs=load.prefill_attended_pairs / batches,
        decode_requests=load.decode_requests,
        decode_kv_tokens=load.decode_kv_tokens,
    )


def planned_clock_mhz(candidate: Candidate, load: Load) -> float:
    """Level that a lowest-safe-level controller would choose for `load`; inf if none is safe.

    Args:
        candidate: Without a predictor snapshot, none is safe.
        load: What its iteration would compute.
    """
    predictor, levels_mhz = candidate.predictor, candidate.levels_mhz
    curve = None if predictor is None else curve_of(predictor, load)
    level = planned_level(candidate, Upcoming(load, curve))
    return levels_mhz[level] if level < len(levels_mhz) else math.inf


def planned_level(candidate: Candidate, upcoming: Upcoming, guess: int = 0) -> int:
    """Index of the level that it would choose; the number of levels if none is safe.

    Args:
        candidate: Without a predictor snapshot, none is safe.
        upcoming: What its iteration would compute, and the curve of that, if there is one.
        guess: See `first_safe`.
    """
    levels_mhz, budget_s = candidate.levels_mhz, candidate.budget_s
    if candidate.predictor is None:
        return len(levels_mhz)
    load, curve = upcoming
    if curve is not None:
        return first_safe(curve, levels_mhz, budget_s, guess)
    forecast = candidate.predictor.forecast(load, np.array(levels_mhz, dtype=np.float64))
    index = lowest_safe_index(forecast.upper_s, budget_s)
    return len(levels_mhz) if index is None else index


def first_safe(
    curve: LatencyCurve, levels_mhz: Sequence[float], budget_s: float, guess: int = 0
) -> int:
    """Index of the slowest safe level; the number of levels if there is none.

    The bound never rises with the clock: what is safe begins at one of the levels.

    Args:
        curve: Latency of a load.
        levels_mhz: The levels, ascending.
        budget_s: What it may take.
        guess: Level at which to look first, as the one that was found for a load like this; changes
            no answer.
    """
    upper_s, begin, end = curve.upper_s, 0, len(levels_mhz)
    if guess < end:
        if upper_s(levels_mhz[guess]) <= budget_s:
            if not guess or not upper_s(levels_mhz[guess - 1]) <= budget_s:  # mostly
                return guess
            end = guess - 1
        else:
            begin = guess + 1
    return bisect_left(levels_mhz, True, begin, end, key=lambda mhz: upper_s(mhz) <= budget_s)


def planned_within(candidate: Candidate, load: Load, clock_mhz: float) -> bool:
    """Whether `planned_clock_mhz` is at most `clock_mhz`, one of the levels; asks there alone."""
    curve = None if candidate.predictor is None else curve_of(candidate.predictor, load)
    if curve is None:
        return planned_clock_mhz(candidate, load) <= clock_mhz
    return curve.upper_s(clock_mhz) <= candidate.budget_s


def mean_at(predictor: Forecasts, load: Load, clock_mhz: float) -> float:
    """Expected latency of `load` at one clock."""
    if offers(predictor, TellsExpected):
        return predictor.expected_s(load, clock_mhz)
    return float(predictor.forecast(load, np.array([clock_mhz])).mean_s[0])


def upper_at(predictor: Forecasts, load: Load, clock_mhz: float) -> float:
    """What the latency of `load` exceeds rarely at one clock."""
    curve = curve_of(predictor, load)
    if curve is None:
        return float(predictor.forecast(load, np.array([clock_mhz])).upper_s[0])
    return curve.upper_s(clock_mhz)


def curve_of(predictor: Forecasts, load: Load) -> LatencyCurve | None:
    """Latency of a load against the clock; None where a predictor does not tell it for less."""
    if not offers(predictor, TellsCurve):
        return None
    return predictor.curve(load)


def certified_or_fastest(
    forecast: Forecast,
    index: int | None,
    budget_s: float,
    binding: Binding = Binding.THRESHOLD,
) -> Decision:
    """The level at `index`, which is safe, or the fastest one if there is none.

    Args:
        forecast: What the decision stands on.
        index: Of a safe level; None if there is none.
        budget_s: What the iteration may take.
        binding: The constraint that set it.
    """
    return make_decision(
        clock_mhz=float(forecast.clocks_mhz[-1 if index is None else index]),
        reason="no safe level: fastest" if index is None else "cheapest safe level",
        status=Status.SATURATED if index is None else CERTIFIED,
        forecast=forecast,
        budget_s=budget_s,
        binding=binding,
    )
