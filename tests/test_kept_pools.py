"""Routers that keep what they worked out choose as plain ones do, and as if they kept nothing."""

from __future__ import annotations

import dataclasses
import math
import pickle
from bisect import bisect_left
from operator import attrgetter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.test_latency_curves import SNAPSHOTS
from voltana.planning import (
    candidate_load,
    load_with,
    mean_at,
    memory_tokens,
    planned_clock_mhz,
    planned_within,
)
from voltana.policies.routing import within_boundaries
from voltana.pool import NAME, KeptPool
from voltana.predictors.conformal.room import MOST, most_within
from voltana.predictors.linear_power import LinearPower
from voltana.promise import bound_on
from voltana.routers import EcoRoute, FillUp, LeastLoaded, LeastMemory, MarginalEnergy
from voltana.routers.triage import Boundary, better_shared, expected_in_time, expected_s
from voltana.routers.viable_batch import ViableBatch, largest_batch
from voltana.testing import samples
from voltana.values import Deferral, InstanceState, Load, Need, Reservation, Role
from voltana.viability import largest_viable_batch, tabulate

IN_FLIGHT = attrgetter("in_flight")
LEVELS = samples.CLOCKS_MHZ[30::2]
POWER = LinearPower().snapshot()
MODELS = [*SNAPSHOTS.values(), samples.LinearSnapshot(), samples.LinearSnapshot(scale=2.0)]


@st.composite
def instances(draw, role):
    """Like instances, with ties among them: few loads, models and ages."""
    running = draw(st.sampled_from([0, 0, 7, 40, 127, 128, 250]))
    state = InstanceState(
        running_requests=running if role is Role.DECODE else 0,
        kv_tokens=300 * running if role is Role.DECODE else 0,
        queued_requests=draw(st.integers(0, 1)),
        queued_tokens=draw(st.sampled_from([0, 500, 6000])),
        clock_mhz=draw(st.sampled_from(LEVELS)),
    )
    held = draw(st.integers(0, 2))
    return samples.candidate(
        0,
        role,
        state=state,
        state_age_s=draw(st.sampled_from([0.0, 0.01, 0.05, 0.2])),
        reserved=Reservation(requests=held, prompt_tokens=200 * held),
        reserved_for_s=draw(st.sampled_from([0.0, 0.02])),
        host_s=draw(st.sampled_from([0.0, 0.0, 0.03])),
        ends_per_s=draw(st.sampled_from([0.0, 0.0, 20.0, 200.0])),
        ended_meanwhile=draw(st.sampled_from([0.0, 1.5, 30.0])),
        predictor=draw(st.sampled_from([*MODELS, *MODELS, None])),
        power=draw(st.sampled_from([POWER, POWER, None])),
        levels_mhz=draw(st.sampled_from([LEVELS, LEVELS[::3], ()])),
        budget_s=draw(st.sampled_from([0.02, 0.05, 0.4, math.inf])),
        in_flight=running + held,
        kv_capacity_tokens=draw(st.sampled_from([20_000.0, 400_000.0])),
        kv_reserved_tokens=draw(st.sampled_from([0.0, 512.0])),
    )


@st.composite
def histories(draw, role):
    """Requests, each with the candidates of its time: of the last ones some have changed."""
    count = draw(st.integers(1, 5))
    drawn = [draw(instances(role)) for _ in range(draw(st.integers(1, 3)))]
    pool = [draw(st.sampled_from(drawn)) for _ in range(count)]
    history = []
    for number in range(draw(st.integers(1, 5))):
        for place in draw(st.lists(st.integers(0, count - 1), max_size=2)):
            pool[place] = (
                draw(st.sampled_from(drawn)) if draw(st.booleans()) else draw(instances(role))
            )
        request = samples.request(number, prompt_tokens=draw(st.sampled_from([1, 300, 9000])))
        slack_s = draw(st.sampled_from([0.0, 1.0]))
        request = dataclasses.replace(request, slack_s=slack_s, waited_s=0.1)
        named = [dataclasses.replace(c, instance=f"i{len(pool) - n}") for n, c in enumerate(pool)]
        history.append((request, named))
    return history


def plain_least_memory(request, pool):
    return min((memory_tokens(c), c.instance) for c in pool)[1]


def plain_fill_up(request, pool):
    each_s = sum(c.reserved_for_s for c in pool) / max(sum(c.reserved.requests for c in pool), 1)

    def host_s(c):
        return max(c.reserved_for_s, c.reserved.requests * max(each_s, c.host_s))

    def has_left_s(c):
        return c.budget_s - (request.waited_s if request.waited_s < c.budget_s else 0.0)

    def device_s(c, level=0):
        load = load_with(candidate_load(c), request, c.role)
        return mean_at(c.predictor, load, c.levels_mhz[level])

    if any(c.predictor is None or not c.levels_mhz for c in pool):
        return LeastLoaded().route(request, pool)
    ranked = [(host_s(c) + device_s(c), c) for c in pool]
    if not all(pending < math.inf for pending, _ in ranked):
        return LeastLoaded().route(request, pool)
    early = [
        (-pending, c.instance) for pending, c in ranked
        if pending <= 0.5 * has_left_s(c) and host_s(c) <= device_s(c)
    ]  # fmt: skip
    left_s, alone, late, lost = [], False, True, False
    for c in pool:
        own = load_with(Load(), request, c.role)
        alone |= mean_at(c.predictor, own, c.levels_mhz[-1]) <= has_left_s(c)
        at_device_s = device_s(c, -1)
        done_s = host_s(c) + at_device_s
        late &= done_s > has_left_s(c) * (0.9 if host_s(c) > at_device_s else 1.0)
        lost |= done_s > 2.0 * has_left_s(c)
        left_s.append((has_left_s(c) - done_s, c.instance))
    if not early and alone and late and (lost or max(left_s)[0] < 0.0):
        return min(left_s)[1]
    return min(early or [(pending, c.instance) for pending, c in ranked])[1]


def plain_ecoroute(request, pool, boundary_mhz=100.0, share=0.8):
    if len(pool) == 1 or not all(c.predictor and c.levels_mhz and c.state_age_s <= 0.1
                                 for c in pool):  # fmt: skip
        return plain_least_memory(request, pool)
    harms, harmless, calm = {}, [], []
    wakes = [not (candidate_load(c).decode_requests or c.in_flight) for c in pool]
    for c, asleep in zip(pool, wakes, strict=True):
        now, levels = candidate_load(c), c.levels_mhz
        after = load_with(now, request, c.role)
        after_mhz = planned_clock_mhz(c, after)
        most_mhz = min(after_mhz, levels[-1])
        far, rise_mhz = bisect_left(levels, most_mhz - boundary_mhz), 0.0
        if not asleep and far and planned_within(c, now, levels[far - 1]):
            rise_mhz = most_mhz - planned_clock_mhz(c, now)
        tiles = [max(1, -(-load.decode_requests // 128)) for load in (now, after)]
        harm = (after_mhz == math.inf, rise_mhz, tiles[1] > tiles[0], after.decode_requests)
        harms[c.instance] = harm
        if harm[:3] == (False, 0.0, False):
            harmless.append(c)
            full = memory_tokens(c) > share * c.kv_capacity_tokens
            if not asleep and after_mhz <= share * levels[-1] and not (any(wakes) and full):
                calm.append(c)
    if harmless or all(unsafe for unsafe, *_ in harms.values()):
        return plain_least_memory(request, calm or harmless or pool)
    return min((harm, name) for name, harm in harms.items())[1]


def plain_viable_batch(request, pool, inner):
    told = all(c.predictor and c.levels_mhz and c.budget_s < math.inf and c.state_age_s <= 0.1
               for c in pool)  # fmt: skip
    ends = {c.instance: boundary(c) for c in pool} if told else {}
    if not told or not all(ends.values()):
        return inner(request, pool)
    over = {}
    for c in pool:
        requests = max(
            c.state.running_requests + c.state.queued_requests + c.reserved.requests, c.in_flight
        )
        reserved = c.kv_reserved_tokens
        needed = memory_tokens(c, reserved) + request.prompt_tokens + reserved
        short = needed - c.kv_capacity_tokens
        lacking = short * (requests + 1) / needed if short > 0 else 0.0
        over[c.instance] = (lacking <= 0.0, lacking, requests + 1 - ends[c.instance])
    room = [c for c in pool if over[c.instance][0] and over[c.instance][2] <= 0]
    at = {c.instance: bounds(c, ends[c.instance]) for c in pool}
    if room and not any(c.in_flight for c in room):
        fits = [c for c in pool if over[c.instance][2] <= 0 and c not in room]
        fits = [c for c in fits if has_room_in_the_end(c, request, *at[c.instance])]
        room += [c for c in fits if over[c.instance][1] <= c.ended_meanwhile]
    if room:
        return inner(request, room)
    if request.slack_s > 0:
        return Deferral
    shared = [c for c in pool if has_room_in_the_end(c, request, *at[c.instance])]
    if not shared:
        roomy = [c for c in pool if over[c.instance][0]]
        if len(roomy) > 1 and better_shared([at[c.instance][0] for c in roomy]):
            shared = roomy
    if not shared:
        return max((*most, name) for name, most in over.items())[-1]
    ranked = []
    for c in shared:
        _, lacking, beyond = over[c.instance]
        one, requests, _ = at[c.instance]
        taken_s = expected_s(one._replace(requests=requests), 1)
        ranked.append((max(lacking, 0.0), taken_s / c.budget_s, lacking, beyond, c.instance))
    return min((zero, share, beyond, name) for zero, share, _, beyond, name in ranked)[-1]


def bounds(candidate, end):
    """What it serves in time with what runs in the end; all that comes; and what runs then."""
    state, load = candidate.state, candidate_load(candidate)
    runs = state.running_requests + state.queued_requests
    requests = max(runs + candidate.reserved.requests, candidate.in_flight)
    in_the_end = runs + min(requests - runs, 2.0 * math.sqrt(requests - runs))
    context = load.decode_kv_tokens / load.decode_requests if load.decode_requests else 1.0
    fastest_mhz, budget_s = candidate.levels_mhz[-1], candidate.budget_s
    one = Boundary(candidate.predictor, fastest_mhz, budget_s, context, end, round(in_the_end))
    return one, requests, in_the_end


def has_room_in_the_end(candidate, request, one, requests, in_the_end):
    state, with_it = candidate.state, in_the_end + 1.0
    runs = state.running_requests + state.queued_requests
    joins = (in_the_end - runs) / max(requests - runs, 1) * candidate.reserved.prompt_tokens
    tokens = state.kv_tokens + state.queued_tokens + joins + request.prompt_tokens
    if tokens + candidate.kv_reserved_tokens * with_it > candidate.kv_capacity_tokens:
        return False
    return with_it <= one.batch or expected_in_time(one)


def boundary(candidate):
    """At the middle of the context's bin, from a table of all batches where the model has one."""
    load = candidate_load(candidate)
    context = load.decode_kv_tokens / load.decode_requests if load.decode_requests else 1.0
    step = math.ceil(math.log(max(context, 1.0)) / 0.05)
    return largest_batch(
        candidate.predictor,
        candidate.levels_mhz[-1],
        context_tokens=math.exp(0.05 * step),
        threshold_s=candidate.budget_s,
    )


@settings(max_examples=150)
@given(history=histories(Role.DECODE))
def test_ecoroute_chooses_as_the_plain_what_if(history):
    router = EcoRoute(LeastMemory(), boundary_mhz=100.0, wake_share=0.8)
    for request, pool in history:
        assert router.route(request, pool) == plain_ecoroute(request, pool)


@settings(max_examples=100)
@given(history=histories(Role.DECODE))
def test_viable_batch_chooses_as_the_plain_one(history):
    router = ViableBatch(EcoRoute(LeastMemory(), boundary_mhz=100.0, wake_share=0.8))
    for request, pool in history:
        chosen = router.route(request, pool)
        expected = plain_viable_batch(request, pool, plain_ecoroute)
        assert chosen == expected or (expected is Deferral and isinstance(chosen, Deferral))


@settings(max_examples=150)
@given(history=histories(Role.PREFILL))
def test_fill_up_chooses_as_the_plain_one(history):
    router = FillUp()
    for request, pool in history:
        assert router.route(request, pool) == plain_fill_up(request, pool)


@pytest.mark.parametrize("make", [within_boundaries, lambda _: MarginalEnergy()])
@settings(max_examples=60)
@given(history=histories(Role.DECODE))
def test_what_was_routed_before_changes_no_choice(make, history):
    router = make(0)
    for request, pool in history:
        assert router.route(request, pool) == make(0).route(request, pool)


@given(
    name=st.sampled_from(sorted(SNAPSHOTS)),
    requests=st.integers(1, 500),
    clock_mhz=st.sampled_from(LEVELS),
    budget_s=st.floats(1e-4, 1.0),
)
def test_the_room_is_what_the_curve_of_the_bound_has(name, requests, clock_mhz, budget_s):
    snapshot = SNAPSHOTS[name]
    most = snapshot.most_kv_tokens(requests, clock_mhz, budget_s)
    if most is None:
        return

    def fits(tokens):
        load = dataclasses.replace(samples.LOADS["a decode batch"], decode_requests=requests,
                                   decode_kv_tokens=tokens)  # fmt: skip
        return snapshot.curve(load).upper_s(clock_mhz) <= budget_s

    assert most < 0 or fits(most)
    assert not fits(most + 1)


@dataclasses.dataclass
class Line:
    """A mean that rises with the tokens, or does not."""

    fixed_s: float
    token_s: float

    def mean_s(self, tokens):
        return self.fixed_s + self.token_s * tokens


@given(
    fixed_s=st.floats(0.0, 1.0),
    token_s=st.sampled_from((0.0, 5e-324, 1e-300, 1e-25, 1e-18, 1e-9, 1e-6, 1e-3)),
    quantile=st.floats(0.0, 0.5),
    budget_s=st.floats(1e-4, 1.0),
)
@example(fixed_s=0.119, token_s=0.0, quantile=0.15, budget_s=0.065)
@example(fixed_s=0.06, token_s=1e-25, quantile=0.0, budget_s=0.065)
def test_the_room_on_a_flat_line_is_all_or_nothing_and_found_in_few_steps(
    fixed_s, token_s, quantile, budget_s
):
    asked = []
    line = Line(fixed_s, token_s)
    told = line.mean_s
    line.mean_s = lambda tokens: asked.append(tokens) or told(tokens)
    most = most_within(line, quantile, 0.005, budget_s)
    assert len(asked) <= 200

    def fits(tokens):
        mean_s = told(tokens)
        return mean_s <= budget_s and bound_on(mean_s, quantile, 0.005) <= budget_s

    assert most == -1 or fits(most)
    assert most >= MOST or not fits(most + 1)


@given(context=st.floats(1.0, 8000.0), threshold_s=st.floats(0.005, 0.5))
def test_a_boundary_asked_for_batch_by_batch_is_that_of_the_table(context, threshold_s):
    snapshot = SNAPSHOTS["learned"]
    table = tabulate(snapshot, LEVELS[-1:], context_tokens=context, threshold_s=threshold_s)
    found = largest_batch(snapshot, LEVELS[-1], context_tokens=context, threshold_s=threshold_s)
    assert found == largest_viable_batch(table)


class TestPool:
    def made(self, *in_flight):
        return [samples.candidate(i, Role.DECODE, in_flight=n) for i, n in enumerate(in_flight)]

    def test_only_rows_of_instances_that_changed_are_made_again(self):
        kept, asked = KeptPool(frozenset(Need)), []
        candidates = self.made(1, 2, 3)
        kept.of(candidates).column(asked.append)
        candidates[1] = dataclasses.replace(candidates[1], in_flight=5)
        candidates[2] = dataclasses.replace(candidates[2], state_age_s=0.01, reserved_for_s=1.0)
        kept.of(candidates).column(asked.append)
        assert [c.in_flight for c in asked] == [1, 2, 3, 5]

    def test_ages_are_those_of_the_look(self):
        kept, candidates = KeptPool(frozenset(Need)), self.made(1, 2)
        assert kept.of(candidates).fresh(0.1)
        candidates[0] = dataclasses.replace(candidates[0], state_age_s=0.2)
        pool = kept.of(candidates)
        assert not pool.fresh(0.1)
        assert pool.take([1]).fresh(0.1)
        assert pool[0].state_age_s == 0.2

    def test_some_of_some_keep_their_columns_and_order(self):
        pool = KeptPool(frozenset(Need)).of(self.made(4, 9, 9, 1)).take([3, 2, 1]).take([0, 2])
        assert pool.column(IN_FLIGHT) == [1, 9] == pool.in_flight()
        assert [c.instance for c in pool] == pool.column(NAME)
        assert pool.busiest().in_flight == 9

    def test_the_busiest_are_taken_first_names_first_of_equals(self):
        pool = KeptPool(frozenset(Need)).of(self.made(4, 9, 9, 1)[::-1])
        assert pool.busiest() is pool[2]
        assert pool.take_busiest(2).column(IN_FLIGHT) == [9, 9]
        assert pool.take_busiest(1).column(NAME) == [pool.busiest().instance]

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
    def test_as_many_as_asked_are_taken_however_many_are_alike(self, in_flight, data):
        candidates = self.made(*in_flight)
        count = data.draw(st.integers(1, len(candidates)))
        ranked = sorted(candidates, key=lambda c: (-c.in_flight, c.instance))[:count]
        taken = KeptPool(frozenset(Need)).of(candidates).take_busiest(count)
        assert list(taken) == [c for c in candidates if c in ranked]

    @given(st.integers(1, 400), st.booleans())
    def test_a_column_that_was_not_read_for_long_is_up_to_date(self, decisions, reads_other):
        kept, candidates = KeptPool(frozenset(Need)), self.made(1, 2)
        kept.of(candidates).column(IN_FLIGHT)
        for number in range(decisions):
            candidates[number % 2] = dataclasses.replace(candidates[number % 2], in_flight=number)
            pool = kept.of(candidates)
            if reads_other:
                assert pool.column(NAME) == [c.instance for c in candidates]
        assert pool.column(IN_FLIGHT) == [c.in_flight for c in candidates] == pool.in_flight()

    @pytest.mark.parametrize("age_s", [math.nan, math.inf])
    def test_a_report_of_unknown_age_is_stale(self, age_s):
        candidates = [dataclasses.replace(c, state_age_s=age_s) for c in self.made(1, 2)]
        assert not KeptPool(frozenset(Need)).of(candidates).fresh(0.1)

    def test_a_copy_starts_empty(self):
        kept = KeptPool(frozenset(Need))
        kept.of(self.made(1, 2))
        assert len(pickle.dumps(kept)) < 200
