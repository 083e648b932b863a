"""OptimalAvailable: the slowest clock at which no prefix of the queue is late."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voltana.controllers.optimal_available import OptimalAvailable
from voltana.errors import ConfigError
from voltana.operating import critical_index
from voltana.slo import Slo
from voltana.slo_reserve import SloReserve
from voltana.testing import strategies as vst
from voltana.testing.samples import observation
from voltana.values import Binding, Bounds, DeadlineBucket, Forecast, Load, Queue, Status

SLO = Slo(ttft_s=0.6, itl_s=0.05)
LEVELS = tuple(float(mhz) for mhz in range(705, 1411, 15))
TOKENS_PER_S = 20_000.0
CLOCKS = np.array(LEVELS)


class Proportional:
    """Prefill at a rate in proportion to the clock, and exactly so."""

    def forecast(self, load, clocks_mhz):
        seconds = load.prefill_tokens / TOKENS_PER_S + 1e-4 * load.decode_requests
        mean_s = seconds * clocks_mhz[-1] / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)

    def learn(self, outcome):
        pass

    def snapshot(self):
        return self


class Ends(Proportional):
    """It knows nothing of batches of more than 3000 tokens."""

    def forecast(self, load, clocks_mhz):
        known = super().forecast(load, clocks_mhz)
        if load.prefill_tokens <= 3000:
            return known
        never_s = np.full(len(clocks_mhz), np.inf)
        return Forecast(clocks_mhz=clocks_mhz, mean_s=never_s, upper_s=never_s)


class WithWeights(Proportional):
    """Every batch reads the weights, which takes as long as 800 tokens."""

    def forecast(self, load, clocks_mhz):
        read = dataclasses.replace(load, prefill_tokens=load.prefill_tokens + 800)
        return super().forecast(read, clocks_mhz)


class Sweet:
    """Busy power with its least energy per work at 1005 MHz, above 60 W of idling."""

    def forecast_w(self, load, clocks_mhz):
        share = clocks_mhz / 1005.0
        busy_w = 100.0 * share * (1.0 + (share - 1.0) ** 2)
        return 60.0 + busy_w * (load.prefill_tokens > 0)

    def learn_window(self, energy_j, exposures):
        pass


def make(power=None, **options):
    return OptimalAvailable(Proportional(), power, LEVELS, SLO, **options)


def bare():
    """Neither a reserve nor expected arrivals: Optimal Available itself."""
    return make(reserve=SloReserve(0.01, eta=0.05, first=1.0, least=0.4), arrivals_s=0.0)


def seen(tokens, wait_s=0.0, buckets=(), now_s=10.0):
    deadlines, total = [], 0
    for due_in_s, more in buckets:
        total += more
        deadlines.append(
            DeadlineBucket(
                deadline_s=now_s + due_in_s,
                cumulative_tokens=total,
                cumulative_attended_pairs=float(total),
                cumulative_batches=len(deadlines) + 1,
            )
        )
    queue = Queue(
        requests=len(deadlines), tokens=total, oldest_wait_s=wait_s, deadlines=tuple(deadlines)
    )
    load = Load.prefill([(tokens, 0)]) if tokens else Load()
    return dataclasses.replace(observation(load, queue=queue), now_s=now_s, sampled_at_s=now_s)


BUCKETS = st.lists(st.tuples(st.floats(0.1, 0.6), st.integers(1, 6000)), max_size=5).map(
    lambda rows: [(due, rows[i][1]) for i, due in enumerate(sorted(row[0] for row in rows))]
)


@given(st.integers(1, 8000), st.floats(0, 0.5), BUCKETS)
def test_it_is_the_slowest_clock_that_keeps_every_deadline(tokens, wait_s, buckets):
    at = seen(tokens, wait_s, buckets)
    decision = bare().decide(at)

    def keeps(clock_mhz):
        speed = TOKENS_PER_S * clock_mhz / LEVELS[-1]
        due = [(10.0 + SLO.ttft_s - wait_s, 0)]
        due += [(b.deadline_s, b.cumulative_tokens) for b in at.queue.deadlines]
        # A bucket is its whole batches: the floor of the mean may be a token short per batch.
        return [10.0 + (tokens + done) / speed - when for when, done in due]

    margin_s = 5 / TOKENS_PER_S * 2.1
    index = LEVELS.index(decision.clock_mhz)
    if decision.status is Status.CERTIFIED:
        assert max(keeps(decision.clock_mhz)) <= margin_s
        if index:
            assert max(keeps(LEVELS[index - 1])) > -margin_s
    else:
        assert decision.clock_mhz == LEVELS[-1]
        assert max(keeps(LEVELS[-1])) > -margin_s


@given(vst.observations())
def test_chooses_a_level_and_certifies_only_what_fits(anything):
    decision = make().decide(anything)
    assert decision.clock_mhz in LEVELS
    if decision.status is Status.CERTIFIED:
        assert decision.forecast.upper_at(decision.clock_mhz) <= decision.budget_s


@given(st.integers(1, 8000), st.floats(0, 0.6), st.floats(0, 0.6), BUCKETS, BUCKETS)
def test_more_waiting_never_means_a_slower_clock(tokens, wait_s, more_s, buckets, more):
    few = bare().decide(seen(tokens, wait_s, buckets)).clock_mhz
    later = [(0.6, tokens) for _, tokens in more]
    many = bare().decide(seen(tokens, wait_s + more_s, buckets + later)).clock_mhz
    assert few <= many


def test_a_later_bucket_may_bind_and_an_early_one_alone_does_not():
    relaxed = bare().decide(seen(1000, 0.0, [(0.5, 1000)])).clock_mhz
    pressed = bare().decide(seen(1000, 0.0, [(0.5, 1000), (0.5, 7000)])).clock_mhz
    assert relaxed == LEVELS[0]
    assert relaxed < pressed < LEVELS[-1]


def test_expected_arrivals_raise_the_clock():
    busy, calm = make(), make(arrivals_s=0.0)
    for step in range(60):
        at = seen(4500, now_s=10.0 + 0.3 * step)
        decisions = busy.decide(at), calm.decide(at)
    assert decisions[0].clock_mhz > decisions[1].clock_mhz


def test_the_worst_is_assumed_of_arrivals_until_some_have_been_seen():
    controller, calm = make(), make(arrivals_s=0.0)
    first = controller.decide(seen(500, now_s=0.0))
    assert (first.clock_mhz, first.binding) == (LEVELS[-1], Binding.PACE)
    for step in range(1, 30):  # a twentieth of the time is needed
        decision = controller.decide(seen(500, now_s=0.5 * step))
    assert decision.clock_mhz == calm.decide(seen(500, now_s=15.0)).clock_mhz == LEVELS[0]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_the_work_that_arrives_is_known_from_the_first_second_on(share):
    controller = make()
    estimates = []
    for step in range(200):  # batches of 0.1 s at the fastest clock
        controller.decide(seen(2000, now_s=0.1 / share * step))
        estimates.append(controller.arriving.tokens_per_s / TOKENS_PER_S)
    assert min(estimates) >= share - 0.05  # never too little, not even at the start
    assert estimates[-1] == pytest.approx(share, abs=0.25)


@pytest.mark.parametrize("prompt", [20, 1000, 2000])
@pytest.mark.parametrize("share", [0.5, 0.65, 0.8])
def test_work_waits_for_half_of_what_is_planned_for_on_average(prompt, share):
    """Of the same rate, long prompts leave chance more: a plain queue's mean wait says by how much.

    Pollaczek and Khinchine: the second moment of the work per second, over twice what is spare.
    """
    per_s, controller = share * TOKENS_PER_S, make()
    load = Load.prefill([(prompt, 0)] * (2000 // prompt))
    for step in range(600):
        at = seen(2000, now_s=10.0 + 2000 / per_s * step)
        decision = controller.decide(dataclasses.replace(at, load=load))
    arriving, planned_s = controller.arriving, controller.reserve.rho * SLO.ttft_s
    work_s = LEVELS[-1] / CLOCKS / TOKENS_PER_S  # of a token
    moment = arriving.tokens_per_s * prompt * work_s**2

    def waits_s(rate):
        return moment / (2.0 * np.maximum(1.0 - rate * work_s, 1e-9))

    error, index = arriving.relative_error, LEVELS.index(decision.clock_mhz)
    few, many = (waits_s((1.0 + by) * arriving.tokens_per_s) for by in (-error, error))
    assert few[index] <= 0.5 * planned_s * (1.0 + 1e-9)
    assert not index or many[index - 1] > 0.5 * planned_s


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 1e-6, 0.05, 3.0, -1.0, 1e4]),
            st.sampled_from([0, 1, 50, 2000, 1_000_000]),
            st.sampled_from([0.0, 0.59, 5.0]),
            st.sampled_from([100.0, 705.0, 900.0, 1410.0]),
        ),
        max_size=12,
    )
)
@example([(0.0, 2000, 0.0, 1410.0), (1e-6, 2000, 0.0, 1410.0)])
@pytest.mark.filterwarnings("error")
def test_a_level_is_found_where_a_model_does_not_know_all_that_may_come(steps):
    controller, now_s = OptimalAvailable(Ends(), Sweet(), LEVELS, SLO), 0.0
    for gap_s, tokens, wait_s, max_mhz in steps:
        now_s += gap_s
        at = dataclasses.replace(seen(tokens, wait_s, now_s=now_s), bounds=Bounds(max_mhz=max_mhz))
        assert controller.decide(at).clock_mhz in LEVELS


@given(st.integers(1, 3000))
def test_never_below_the_critical_clock(tokens):
    assert make(Sweet()).decide(seen(tokens)).clock_mhz >= 1005.0


def test_decode_alone_takes_the_lowest_safe_level():
    decision = make().decide(observation(Load.decode(400, 1000)))
    assert decision.status is Status.CERTIFIED
    assert decision.budget_s == SLO.itl_s
    assert decision.clock_mhz == min(mhz for mhz in LEVELS if 0.04 * 1410.0 / mhz <= SLO.itl_s)


class TestReserve:
    def test_a_broken_promise_lowers_the_share_and_a_kept_one_raises_it(self):
        controller = make()
        start = controller.reserve.rho
        controller.decide(seen(2000, now_s=10.0))
        controller.decide(seen(2000, now_s=10.1))
        assert controller.reserve.rho > start
        kept = controller.reserve.rho
        controller.decide(seen(0, now_s=11.0))
        assert controller.reserve.rho < kept

    def test_what_was_not_promised_is_not_held_against_it(self):
        controller = make()
        start = controller.reserve.rho
        controller.decide(seen(2000, wait_s=5.0, now_s=10.0))
        controller.decide(seen(0, now_s=12.0))
        assert controller.reserve.rho == start

    def test_late_batches_that_were_promised_stay_within_its_bound(self):
        controller = make(reserve=SloReserve(0.1, eta=0.05, first=0.9, least=0.5, most=0.9))
        for index in range(200):
            controller.decide(seen(2000, now_s=index * (10.0 if index % 7 == 0 else 0.1)))
        reserve = controller.reserve
        assert 0 < reserve.missed - reserve.forgiven <= reserve.bound()

    @pytest.mark.parametrize(
        ("field", "value"), [("first", 0.3), ("eta", 1.0), ("least", 0.96), ("most", 1.5)]
    )
    def test_values_out_of_range_are_refused(self, field, value):
        usual = {"eta": 0.05, "first": 0.75, "least": 0.4, "most": 0.95}
        with pytest.raises(ConfigError, match=f"{field} = "):
            SloReserve(0.01, **usual | {field: value})


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="arrivals_s"):
        make(arrivals_s=-1.0)
    with pytest.raises(ConfigError, match="levels_mhz"):
        OptimalAvailable(Proportional(), None, (), SLO)


@given(st.floats(20.0, 300.0), st.floats(1.0, 300.0), st.floats(1.0, 600.0))
def test_the_critical_clock_takes_the_least_energy(flat_w, linear_w, cubic_w):
    share = CLOCKS / CLOCKS[-1]
    extra_w = flat_w + linear_w * share + cubic_w * share**3
    energy_j = extra_w / share
    assert energy_j[critical_index(1.0 / share, extra_w)] == energy_j.min()


def test_an_unknown_latency_has_no_critical_clock_above_the_lowest():
    assert critical_index(np.full(3, np.inf), np.array([0.0, 1.0, 2.0])) in range(3)


def settled(tokens, wait_s, *, deadlines=(), rate=1, seconds=10.0):
    """The last of many decisions on batches whose oldest prompt has waited for so long."""
    controller = make(Sweet())
    for step in range(round(seconds * rate)):
        decision = controller.decide(seen(tokens, wait_s, deadlines, now_s=10.0 + step / rate))
    return decision


def test_a_deadline_that_is_lost_is_no_reason_to_hurry():
    """A host that takes longer than the deadline over each prompt; the device idles meanwhile."""
    lost = settled(100, 3.0, rate=20)
    assert lost.clock_mhz == settled(100, 0.0, rate=20).clock_mhz < LEVELS[-1]
    assert lost.status is Status.VOID
    assert lost.reason == "deadline lost: keep pace"
    assert lost.budget_s == np.inf


def test_a_deadline_that_others_of_the_batch_may_keep_is_one():
    """Some of a batch that waited for the device came late enough to be in time still."""
    assert settled(6000, 0.5, rate=2).clock_mhz == LEVELS[-1]


def test_what_is_lost_does_not_slow_down_those_behind():
    assert settled(100, 3.0, rate=20, deadlines=[(0.5, 1000)]).clock_mhz == LEVELS[-1]


def test_a_lost_batch_keeps_pace():
    busy = settled(900, 3.0, rate=20)  # nine tenths of what the fastest clock serves
    assert busy.clock_mhz == LEVELS[-1]


def test_what_was_lost_breaks_no_promise():
    controller = make(Sweet())
    before = controller.reserve.rho
    for step in range(400):
        controller.decide(seen(100, 3.0, now_s=10.0 + 0.05 * step))
    assert controller.reserve.rho >= before


def test_who_came_from_a_host_together_is_lost_together():
    """An idle device computes prompts at once, so that all of a batch are as late as its first.

    Had the others come evenly while that one waited, a faster level would save a fifth of them.
    """
    load = Load(prefill_tokens=2000, prefill_attended_pairs=10_000.0)  # many short prompts
    clocks = {}
    for waited_s in (0.0, 0.55):
        controller = make(Sweet())
        for step in range(80):
            now_s = 10.0 + 0.5 * step
            controller.decide(seen(0, now_s=now_s))
            at = dataclasses.replace(seen(2000, waited_s, now_s=now_s + 0.1), load=load)
            decision = controller.decide(at)
        clocks[waited_s] = decision.clock_mhz
    assert decision.status is Status.VOID
    assert clocks[0.55] == clocks[0.0] < LEVELS[-1]


def test_who_comes_next_has_waited_for_the_host_as_well():
    """Of 450 ms that are planned for, a host that takes 250 leaves 200 at the device.

    A batch of 1500 tokens and what may join meanwhile takes more at the critical clock.
    """
    load = Load(prefill_tokens=1500, prefill_attended_pairs=150_000.0)
    decisions = {}
    for waited_s in (0.0, 0.25, 0.55):
        controller = make(Sweet())
        for step in range(8):
            now_s = 10.0 + 0.25 * step
            controller.decide(seen(0, now_s=now_s))
            at = dataclasses.replace(seen(1500, waited_s, now_s=now_s + 0.14), load=load)
            decisions[waited_s] = controller.decide(at)
    assert decisions[0.0].clock_mhz == 1005.0
    assert 1005.0 < decisions[0.25].clock_mhz < LEVELS[-1]
    assert decisions[0.25].binding is Binding.PACE
    assert decisions[0.55].clock_mhz == 1005.0  # lost, and who comes next as well


def test_what_a_batch_cannot_take_shares_no_reading_of_the_weights():
    """Full batches of 1000 tokens take 90 ms, so that 9000 tokens/s are 0.81 of the fastest clock.

    If all of it joined one batch, 0.45 would do.
    """
    clocks = []
    for limit in (np.inf, 1000):
        limited = OptimalAvailable(WithWeights(), Sweet(), LEVELS, SLO, max_batch_tokens=limit)
        for step in range(300):
            decision = limited.decide(seen(1000, now_s=10.0 + step / 9))
        clocks.append(decision.clock_mhz)
    assert clocks[0] < 0.85 * LEVELS[-1] <= 0.9 * LEVELS[-1] <= clocks[1]


@pytest.mark.parametrize("limit", [0, -1, np.nan])
def test_a_batch_of_no_tokens_is_refused(limit):
    with pytest.raises(ConfigError, match="max_batch_tokens"):
        make(max_batch_tokens=limit)
