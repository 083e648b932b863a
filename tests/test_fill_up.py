"""FillUp: full batches on few instances, balanced once they would be late."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import parse_scenario, resolve
from voltana.routers.fill_up import FillUp
from voltana.routers.least_loaded import LeastLoaded
from voltana.testing import samples
from voltana.values import Forecast, InstanceState, Reservation, Role

BUDGET_S = 0.6
TOKENS_PER_S = 20_000.0


class Speed:
    """Prefill at a rate in proportion to the clock, `share` as fast as another device."""

    def __init__(self, share=1.0):
        self.share = share

    def forecast(self, load, clocks_mhz):
        seconds = load.prefill_tokens / TOKENS_PER_S / self.share
        mean_s = seconds * 1410.0 / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)

    def to_dict(self):
        return {}


def prefill(name, tokens, predictor=None, *, margin=0.0, ran_s=0.0):
    state = InstanceState(
        queued_requests=1 if tokens else 0,
        queued_tokens=tokens,
        clock_mhz=1410.0,
        ttft_margin=margin,
        computing_tokens=tokens,
        computing_for_s=ran_s,
    )
    return samples.candidate(
        0,
        Role.PREFILL,
        instance=name,
        state=state,
        predictor=predictor or Speed(),
        levels_mhz=(1410.0,),
        budget_s=BUDGET_S,
    )


def route(router, *pool, tokens=500):
    return router.route(samples.request(0, prompt_tokens=tokens), pool)


def test_the_busiest_that_is_early_enough_takes_it():
    assert route(FillUp(0.5), prefill("a", 0), prefill("b", 3000), prefill("c", 1000)) == "b"
    assert route(FillUp(0.5), prefill("a", 0), prefill("b", 5600), prefill("c", 1000)) == "c"


def test_what_a_batch_that_runs_has_computed_is_pending_no_longer():
    begun, half = prefill("a", 8000), prefill("a", 8000, ran_s=0.2)  # 0.4 s
    assert route(FillUp(0.5), begun, prefill("b", 1000)) == "b"
    assert route(FillUp(0.5), half, prefill("b", 1000)) == "a"
    assert route(FillUp(0.0), half, prefill("b", 5000)) == "a"  # balanced likewise


def test_among_many_instances_it_is_pending_no_longer_either():
    others = [prefill(f"o{place}", 5900) for place in range(40)]
    half = prefill("a", 8000, ran_s=0.2)
    assert route(FillUp(0.5), *others, half) == "a"
    assert route(FillUp(0.0), *others, half) == "a"


def test_an_empty_pool_is_filled_from_its_first_name():
    assert route(FillUp(), prefill("b", 0), prefill("a", 0)) == "a"


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=5), st.integers(1, 4000))
def test_nobody_is_made_late_while_another_would_be_early(pending, tokens):
    pool = [prefill(f"p{i}", work) for i, work in enumerate(pending)]
    chosen = pool[int(route(FillUp(0.5), *pool, tokens=tokens)[1:])]
    limit = 0.5 * BUDGET_S * TOKENS_PER_S

    def after(candidate):
        return candidate.state.queued_tokens + tokens

    if any(after(candidate) <= limit for candidate in pool):
        assert after(chosen) <= limit
    elif any(after(candidate) <= 2 * limit for candidate in pool):
        assert after(chosen) == min(after(candidate) for candidate in pool)
    else:
        assert after(chosen) == max(after(candidate) for candidate in pool)


def test_what_counts_is_time_and_not_tokens():
    slow, fast = prefill("a", 8000, Speed(0.25)), prefill("b", 9000, Speed(1.0))
    assert route(FillUp(), slow, fast) == "b"
    assert route(LeastLoaded(), slow, fast) == "a"


class Fixed:
    """Every batch takes 50 ms, whatever it computes."""

    def forecast(self, load, clocks_mhz):
        seconds = 0.05 * 1410.0 / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=seconds, upper_s=seconds)

    def to_dict(self):
        return {}


def test_what_is_pending_takes_as_many_batches_as_it_fills():
    def of_512(name, tokens):
        candidate = prefill(name, tokens, Fixed())
        return dataclasses.replace(candidate, max_batch_tokens=512)

    assert route(FillUp(), of_512("a", 2400), of_512("b", 0), tokens=600) == "a"
    assert route(FillUp(), of_512("a", 2600), of_512("b", 0), tokens=600) == "b"


def test_without_predictors_it_balances():
    pool = [samples.candidate(i, Role.PREFILL, predictor=None) for i in range(3)]
    assert route(FillUp(), *pool) == route(LeastLoaded(), *pool)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ConfigError, match="share = "):
        FillUp(share)


def test_a_host_that_is_behind_counts_like_work_that_is_pending():
    """Prompts that a host prepares are no work of the device yet, and late all the same."""
    behind = dataclasses.replace(prefill("a", 3000), reserved_for_s=0.29)
    assert route(FillUp(0.5), behind, prefill("b", 0)) == "b"
    assert (
        route(FillUp(0.5), dataclasses.replace(behind, reserved_for_s=0.01), prefill("b", 0)) == "a"
    )
    far = dataclasses.replace(prefill("b", 0), reserved_for_s=0.9)
    assert route(FillUp(0.5), dataclasses.replace(behind, reserved_for_s=0.33), far) == "a"


def test_what_nobody_can_have_done_in_time_joins_the_line_that_is_lost():
    """Of three lines that grow beyond the threshold together, all prompts would be late."""
    lost, near, nearer = prefill("a", 14_000), prefill("b", 12_000), prefill("c", 12_200)
    assert route(FillUp(), lost, near, nearer) == "a"
    assert route(FillUp(), lost, prefill("b", 11_000), nearer) == "b"
    behind = dataclasses.replace(near, reserved_for_s=0.4)
    assert route(FillUp(), lost, behind, nearer) == "b"


def test_beside_a_lost_line_others_are_filled_to_where_they_can_promise():
    """At 0.6 s 12,000 tokens are just in time, and 10,000 are with a margin of a fifth."""
    lost = prefill("a", 30_000, margin=0.2)
    assert route(FillUp(), lost, prefill("b", 9_400, margin=0.2)) == "b"
    assert route(FillUp(), lost, prefill("b", 9_600, margin=0.2)) == "a"
    assert route(FillUp(), lost, prefill("b", 9_600)) == "b"


def test_beside_a_lost_line_a_device_takes_the_last_prompt_that_is_in_time():
    """Of prompts that take a quarter of the deadline: with less than a tenth left, four fit."""
    assert route(FillUp(), prefill("a", 30_000), prefill("b", 8_700), tokens=2_900) == "b"


def test_beside_a_lost_line_that_of_a_host_ends_a_tenth_of_the_deadline_early():
    """The device would hurry for what comes late from its host: 0.51 s and 25 ms, or 0.52 s."""
    lost, free = prefill("a", 30_000), prefill("b", 0)
    assert route(FillUp(), lost, dataclasses.replace(free, reserved_for_s=0.51)) == "b"
    assert route(FillUp(), lost, dataclasses.replace(free, reserved_for_s=0.52)) == "a"


def test_beside_a_lost_line_one_without_a_deadline_is_in_time():
    """Though its host has the longer line, so that it is not filled up."""
    unknown = dataclasses.replace(prefill("b", 0), reserved_for_s=0.1, budget_s=math.inf)
    assert route(FillUp(), prefill("a", 30_000), unknown) == "b"


@given(st.integers(0, 23_000), st.floats(0.0, 0.4))
def test_a_burst_that_passes_makes_no_line_lost(tokens, margin):
    """What is late by less than a deadline may be in time again: nothing is added to it."""
    late, early = prefill("a", tokens, margin=margin), prefill("b", 11_000, margin=margin)
    assert route(FillUp(), late, early) == ("a" if tokens < 11_000 else "b")


def test_no_line_is_lost_to_what_a_batch_that_runs_has_computed():
    """0.65 s are pending of 0.6, and half of that is computed: it is in time yet."""
    late, near = prefill("a", 13_000), prefill("b", 12_500)
    assert route(FillUp(), late, near) == "a"
    late, near = prefill("a", 13_000, ran_s=0.3), prefill("b", 12_500, ran_s=0.4)
    assert route(FillUp(), late, near) == "b"


def test_what_is_yet_to_compute_counts_with_the_margin_of_promises():
    """13,000 less 4,000 take 0.45 s of 0.6, and 0.63 with what first tokens come later."""
    late, near = (prefill(name, 13_000, margin=0.4, ran_s=0.2) for name in "ab")
    assert route(FillUp(0.0), late, prefill("b", 12_900, margin=0.4, ran_s=0.2)) == "a"
    assert route(FillUp(0.0), prefill("a", 13_000, ran_s=0.2), near) == "a"


def test_beside_a_lost_line_a_batch_that_runs_counts_whole():
    """Lines all end at their deadline there, and what ends with later prompts is late."""
    lost = prefill("a", 40_000)
    assert route(FillUp(), lost, prefill("b", 12_000, ran_s=0.2)) == "a"
    assert route(FillUp(), lost, prefill("b", 11_000)) == "b"


def test_beyond_saturation_what_is_sent_in_time_is_in_time():
    """Boards at their power limit hold no fastest clock: what is expected comes a tenth late."""
    scenario = {
        "policies": ["voltana", "static-max-routed"],
        "seed": 2,
        "cluster": {"hardware": "h200-sxm", "model": "ministral-3b"},
        "slo": {"ttft_ms": 600, "itl_ms": 65},
        "workload": {"name": "sharegpt-8k", "rate_rps": 86.5, "duration_s": 40.0},
    }
    result, balanced = (run.result for run in compare(resolve(parse_scenario(scenario))).runs)
    assert balanced.ttft_attainment < 0.3
    assert result.ttft_attainment > balanced.ttft_attainment + 0.25


def test_a_prompt_that_takes_long_itself_is_not_given_up_while_an_instance_is_free():
    """0.58 of 0.6 s: it can wait for next to nothing, and need not."""
    assert route(FillUp(), prefill("a", 2000), prefill("b", 0), tokens=11_600) == "b"


@given(
    pending=st.lists(st.integers(0, 30_000), min_size=1, max_size=6),
    tokens=st.integers(math.ceil(BUDGET_S * TOKENS_PER_S) + 1, 60_000),
)
def test_a_prompt_that_is_late_wherever_it_goes_is_balanced(pending, tokens):
    """With a threshold that nobody can keep all are like it, and one line would take them all."""
    pool = [prefill(f"p{i}", work) for i, work in enumerate(pending)]
    chosen = pool[int(route(FillUp(), *pool, tokens=tokens)[1:])]
    assert chosen.state.queued_tokens == min(pending)


def test_time_that_was_waited_before_counts():
    pool = [prefill("a", 6000), prefill("b", 5600)]
    fresh = samples.request(0, prompt_tokens=500)
    assert FillUp(0.5).route(fresh, pool) == "b"
    assert FillUp(0.5).route(dataclasses.replace(fresh, waited_s=0.3), pool) == "a"


@given(late_s=st.floats(0.0, 60.0))
def test_whose_deadline_has_passed_shares_a_batch_as_if_it_came_now(late_s):
    """Balanced, what waits on late for room would be computed prompt by prompt."""
    pool = [prefill("a", 0), prefill("b", 3000), prefill("c", 40_000)]
    late = samples.request(0, prompt_tokens=500)
    assert FillUp().route(late, pool) == "b"
    assert FillUp().route(dataclasses.replace(late, waited_s=BUDGET_S + late_s), pool) == "b"
    soon = dataclasses.replace(late, waited_s=0.9 * BUDGET_S)
    assert FillUp().route(soon, pool) == "a"


def test_beyond_saturation_one_host_still_serves_in_time():
    """Hosts get a quarter more than they prepare: balanced, all lines are lost within seconds."""
    result, balanced = (
        run.result
        for run in compare(
            resolve(
                parse_scenario(
                    {
                        "policies": ["voltana", "static-max-routed"],
                        "seed": 3,
                        "cluster": {"model": "ministral-3b"},
                        "workload": {"name": "lmsys", "rate_rps": 170.0, "duration_s": 8.0},
                    }
                )
            )
        ).runs
    )
    assert balanced.ttft_attainment < 0.4
    assert result.ttft_attainment > balanced.ttft_attainment + 0.1


def test_an_instance_whose_host_binds_is_not_filled():
    """Its device has computed all that is pending before it sees the prompt."""
    at_host = Reservation(requests=2, prompt_tokens=1000)
    behind = dataclasses.replace(prefill("a", 3000), reserved=at_host, reserved_for_s=0.2)
    assert route(FillUp(0.9), behind, prefill("b", 0)) == "a"
    behind = dataclasses.replace(behind, reserved_for_s=0.25)
    assert route(FillUp(0.9), behind, prefill("b", 0)) == "b"


def test_of_hosts_that_bind_the_one_with_fewer_prompts_takes_the_next():
    """The oldest of a burst has not waited long yet, when the last of it will."""
    burst, few = Reservation(requests=30, prompt_tokens=30), Reservation(requests=3)
    pool = [
        dataclasses.replace(prefill("a", 0), reserved=burst, reserved_for_s=0.04),
        dataclasses.replace(prefill("b", 0), reserved=few, reserved_for_s=0.05),
    ]
    assert route(FillUp(), *pool, tokens=50) == "b"


@pytest.mark.parametrize(("model", "rate_rps"), [("llama-3.1-8b", 90.0), ("ministral-3b", 130.0)])
def test_prompts_are_not_gathered_beyond_what_a_host_can_prepare(model, rate_rps):
    """One host would be 30 % behind, with most of the device's time left; two are 96 % busy."""
    scenario = resolve(
        parse_scenario(
            {
                "policies": ["voltana"],
                "seed": 3,
                "cluster": {"model": model},
                "workload": {"name": "lmsys", "rate_rps": rate_rps, "duration_s": 20.0},
            }
        )
    )
    assert rate_rps * scenario.cluster.hardware.host.request_s > 1.3
    assert compare(scenario).runs[0].result.ttft_attainment > 0.98
