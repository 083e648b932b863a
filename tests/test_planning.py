"""The pure search for operating points, and what a clamped decision still promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana import planning
from voltana.cluster.candidates import NOTHING_KNOWN
from voltana.cluster.candidates import candidate as seen_now
from voltana.cluster.ledger import Ledger
from voltana.operating import yet_to_compute
from voltana.testing import samples
from voltana.testing import strategies as vst
from voltana.values import Forecast, InstanceState, Load, Reservation, Role, Status

BOUNDS = st.lists(st.one_of(st.floats(0.001, 1.0), st.just(math.inf)), min_size=1, max_size=30)
BUDGETS = st.one_of(st.floats(-1.0, 2.0), st.just(math.inf))


def forecast(*upper_s):
    uppers = np.array(upper_s)
    return Forecast(
        clocks_mhz=np.array([600.0, 1005.0, 1410.0])[-len(uppers) :],
        mean_s=0.9 * uppers,
        upper_s=uppers,
    )


@given(BOUNDS, BUDGETS)
def test_the_lowest_safe_index_is_the_first_that_fits(upper_s, budget_s):
    expected = next((i for i, upper in enumerate(upper_s) if upper <= budget_s), None)
    assert planning.lowest_safe_index(np.array(upper_s), budget_s) == expected


@given(st.lists(st.tuples(st.floats(0.001, 1), st.floats(0, 500)), min_size=1), st.floats(-1, 2))
def test_the_cheapest_safe_index_is_safe_and_cheapest(pairs, budget_s):
    upper_s, cost = (np.array(column) for column in zip(*pairs, strict=True))
    index = planning.cheapest_safe_index(upper_s, cost, budget_s)
    safe = upper_s <= budget_s
    if index is None:
        assert not safe.any()
    else:
        assert safe[index]
        assert cost[index] == cost[safe].min()


def test_nan_is_never_safe():
    upper_s = np.array([math.nan, math.nan])
    assert planning.lowest_safe_index(upper_s, 1.0) is None
    assert planning.cheapest_safe_index(upper_s, np.zeros(2), 1.0) is None


@given(vst.forecasts(), BUDGETS)
def test_a_lowest_safe_decision_holds_what_it_promises(made, budget_s):
    decision = planning.lowest_safe_decision(made, budget_s)
    assert decision.forecast is made
    assert decision.budget_s == budget_s
    if decision.status is Status.CERTIFIED:
        assert made.upper_at(decision.clock_mhz) <= budget_s
        slower = made.upper_s[made.clocks_mhz < decision.clock_mhz]
        assert (slower > budget_s).all()
    else:
        assert decision.status is Status.SATURATED
        assert decision.clock_mhz == made.clocks_mhz[-1]
        assert (made.upper_s > budget_s).all()


@pytest.mark.parametrize(
    ("clock_mhz", "achieved_mhz", "budget_s", "expected"),
    [
        (1005.0, 1005.0, 0.05, Status.CERTIFIED),
        (1005.0, 1410.0, 0.05, Status.CERTIFIED),
        (1410.0, 600.0, 0.05, Status.VOID),  # safe once settled, not yet
        (1005.0, math.nan, 0.05, Status.CERTIFIED),  # unknown counts as settled
        (1005.0, 0.0, 0.05, Status.CERTIFIED),
        (600.0, 1410.0, 0.05, Status.SATURATED),  # clamped below the safe clock
        (1410.0, 1410.0, 0.01, Status.SATURATED),
        (1410.0, 1395.0, 0.05, Status.CERTIFIED),  # held back by the power cap, still safe
        (1410.0, 1395.0, 0.03, Status.VOID),
        (1410.0, 1410.0, math.inf, Status.VOID),
        (100.0, 1410.0, 0.5, Status.SATURATED),  # below every clock that was forecast
    ],
)
def test_what_a_decision_promises_after_the_clamp(clock_mhz, achieved_mhz, budget_s, expected):
    status = planning.certified_status(
        forecast(0.08, 0.05, 0.03), budget_s, clock_mhz=clock_mhz, achieved_mhz=achieved_mhz
    )
    assert status is expected


def test_without_a_forecast_nothing_is_promised():
    status = planning.certified_status(None, 0.05, clock_mhz=1410.0, achieved_mhz=1410.0)
    assert status is Status.VOID


@given(vst.forecasts(), BUDGETS, st.floats(210, 1410), st.floats(210, 1410))
def test_certified_holds_at_every_clock_that_may_be_in_force(made, budget_s, clock, achieved):
    status = planning.certified_status(made, budget_s, clock_mhz=clock, achieved_mhz=achieved)
    if status is Status.CERTIFIED:
        for in_force in (clock, achieved, (clock + achieved) / 2):
            assert min(bounds_around_s(made, in_force)) <= budget_s < math.inf
    if status is Status.SATURATED:
        assert max(bounds_around_s(made, clock)) > budget_s


def bounds_around_s(made, clock_mhz):
    """What the next slower and the next faster level say of a clock; either bounds it."""
    faster = int(made.clocks_mhz.searchsorted(clock_mhz - 1e-9))
    slower_s = made.upper_at(clock_mhz)
    if faster == len(made.clocks_mhz):
        return slower_s, slower_s
    level_mhz = float(made.clocks_mhz[faster])
    return slower_s, float(made.upper_s[faster]) * max(level_mhz / clock_mhz, 1.0)


@given(vst.candidates(Role.DECODE), vst.requests())
def test_a_decode_candidates_load_counts_what_is_reserved(candidates, request):
    for candidate in candidates:
        load = planning.candidate_load(candidate)
        state, reserved = candidate.state, candidate.reserved
        assert load.decode_requests == state.running_requests + reserved.requests
        assert load.decode_kv_tokens == state.kv_tokens + reserved.prompt_tokens
        joined = planning.load_with(load, request, Role.DECODE)
        assert joined.decode_requests == load.decode_requests + 1
        assert joined.decode_kv_tokens == load.decode_kv_tokens + request.prompt_tokens
        assert joined.prefill_tokens == 0


@given(vst.candidates(Role.PREFILL), vst.requests())
def test_a_prefill_candidates_load_counts_what_is_reserved(candidates, request):
    for candidate in candidates:
        load = planning.candidate_load(candidate)
        queued, reserved = candidate.state.queued_tokens, candidate.reserved.prompt_tokens
        assert load.prefill_tokens == queued + reserved
        assert load.decode_requests == 0
        joined = planning.load_with(load, request, Role.PREFILL)
        assert joined.prefill_tokens == load.prefill_tokens + request.prompt_tokens
        assert joined.prefill_attended_pairs > load.prefill_attended_pairs


def test_queued_prompts_attend_as_prompts_of_equal_length():
    state = InstanceState(queued_requests=3, queued_tokens=3000, clock_mhz=1410.0)
    reserved = Reservation(requests=1, prompt_tokens=1000)
    candidate = samples.candidate(0, Role.PREFILL, state=state, reserved=reserved)
    exact = Load.prefill([(1000, 0)] * 4).prefill_attended_pairs
    assert planning.candidate_load(candidate).prefill_attended_pairs == pytest.approx(
        exact, rel=0.01
    )


def computing(tokens=4000, batch=3000, ran_s=0.0, **changes):
    state = InstanceState(
        queued_requests=2,
        queued_tokens=tokens,
        computing_tokens=batch,
        computing_for_s=ran_s,
        clock_mhz=1410.0,
    )
    return samples.candidate(0, Role.PREFILL, **({"state": state} | changes))


def left(candidate):
    return yet_to_compute(candidate, planning.candidate_load(candidate))


def takes_s(batch):
    """What a batch of so many of the 4000 tokens is expected to take."""
    pairs = planning.candidate_load(computing()).prefill_attended_pairs * batch / 4000
    load = Load(prefill_tokens=batch, prefill_attended_pairs=pairs)
    forecast = computing().predictor.forecast(load, np.array([1410.0]))
    return float(forecast.mean_s[0])


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(1, 4000))
def test_of_a_batch_that_runs_ever_less_is_yet_to_compute_and_of_what_waits_all(one, other, batch):
    ran_s = [share * takes_s(batch) for share in sorted((one, other))]
    before, after = (left(computing(batch=batch, ran_s=s)) for s in ran_s)
    assert 4000 >= before.prefill_tokens >= after.prefill_tokens >= 4000 - batch
    whole = planning.candidate_load(computing(batch=batch))
    share = after.prefill_tokens / whole.prefill_tokens
    assert after.prefill_attended_pairs == pytest.approx(share * whole.prefill_attended_pairs)


def test_of_a_batch_that_is_overdue_ever_less_counts_as_computed():
    """A device that is slower than its model says, or hangs, is no empty one."""
    ran_s = [share * takes_s(3000) for share in (1.0, 2.5, 1e6)]
    yet_to_come = [left(computing(ran_s=s)).prefill_tokens for s in ran_s]
    assert yet_to_come == pytest.approx([1000, 1000 + 0.6 * 3000, 4000], abs=2)


def test_a_batch_runs_on_while_its_report_grows_old():
    def shown(age_s):
        state = computing(ran_s=0.3).state
        facts = {"instance": "p", "role": Role.PREFILL, "facts": NOTHING_KNOWN, "now_s": 9.0}
        return seen_now(Ledger(), state=state, state_age_s=age_s, **facts).state

    assert shown(0.2).computing_for_s == pytest.approx(0.5)
    for age_s in (0.0, math.inf):  # of no report it is unknown how old it is
        assert shown(age_s).computing_for_s == 0.3


@pytest.mark.parametrize(
    "shown",
    [
        computing(),  # has just begun
        computing(batch=0, ran_s=1.0),
        computing(batch=4001, ran_s=1.0),  # more than it says is pending
        computing(ran_s=1.0, predictor=None),
        computing(ran_s=math.nan),
        computing(ran_s=1.0, state=InstanceState(queued_tokens=4000, clock_mhz=math.nan)),
    ],
)
def test_where_nothing_is_known_to_be_computed_all_is_yet_to_be(shown):
    assert left(shown) == planning.candidate_load(shown)


def test_the_planned_clock_rises_with_the_load_until_none_is_safe():
    candidate = samples.candidate(
        0, Role.DECODE, budget_s=0.02, levels_mhz=tuple(samples.CLOCKS_MHZ)
    )
    clocks = [
        planning.planned_clock_mhz(candidate, Load.decode(n, 600 * n))
        for n in (1, 30, 60, 90, 4000)
    ]
    assert clocks == sorted(clocks)
    assert clocks[0] < clocks[3] < clocks[4] == math.inf


def test_without_a_predictor_no_clock_is_known_to_be_safe():
    candidate = samples.candidate(0, Role.DECODE, predictor=None)
    assert planning.planned_clock_mhz(candidate, Load.decode(1, 1)) == math.inf
