"""SharedGaps: prompts share gaps between tokens where engines compute prompts first."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario
from voltana.planning import requests_of
from voltana.routers.shared_gaps import DEVIATIONS, SharedGaps
from voltana.testing import check_router, samples
from voltana.values import Forecast, InstanceState, Reservation, Role


class Line:
    """At any clock 10 ms for a decode batch, and 0.1 ms for a prompt token."""

    def forecast(self, load, clocks_mhz):
        seconds = 0.01 * (load.decode_requests > 0) + 1e-4 * load.prefill_tokens
        mean_s = 0.0 * clocks_mhz + seconds
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)

    def to_dict(self):
        return {}


LINE = Line()


def colocated(name, running=20, pending=0, **changes):
    """One that keeps a gap of 40 ms, of which decode takes 10, with prompts that wait."""
    state = InstanceState(
        running_requests=running,
        kv_tokens=300 * running,
        queued_requests=bool(pending),
        queued_tokens=pending,
        clock_mhz=1410.0,
    )
    fields = {
        "instance": name,
        "state": state,
        "predictor": LINE,
        "budget_s": 0.04,
        "ttft_s": 0.6,
        "prompts_first": True,
    }
    return samples.candidate(0, Role.COLOCATED, **(fields | changes))


def route(*candidates, prompt_tokens=200, router=None):
    return (router or SharedGaps()).route(samples.request(0, prompt_tokens), candidates)


def test_it_keeps_the_contract_of_routers():
    check_router(SharedGaps).raise_if_failed()


@pytest.mark.parametrize("prompt_tokens", [200, 400])
def test_prompts_share_the_gap_that_is_late_already(prompt_tokens):
    """20 ms fit the gaps of the others, 40 do not; where all is late neither makes one late."""
    pool = [colocated("a", 18), colocated("late", pending=500), colocated("c", 18)]
    assert route(*pool, prompt_tokens=prompt_tokens) == "late"


def test_a_prompt_goes_where_it_fits_the_gap_and_else_where_it_makes_the_fewest_tokens_late():
    pool = [colocated("a", 20, pending=200), colocated("b", 22), colocated("c", 18, pending=200)]
    assert route(*pool, prompt_tokens=200) == "b"
    assert route(*pool, prompt_tokens=1000) == "c"


class Slower(Line):
    """That at the fastest clock, and longer the slower it is."""

    def forecast(self, load, clocks_mhz):
        mean_s = super().forecast(load, clocks_mhz).mean_s * (1410.0 / clocks_mhz)
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)


def at_clock(candidate, clock_mhz):
    state = dataclasses.replace(candidate.state, clock_mhz=clock_mhz)
    return dataclasses.replace(candidate, state=state, predictor=Slower())


@pytest.mark.parametrize("clock_mhz", [math.nan, 0.0, 1410.0])
def test_a_prompt_has_to_fit_the_gap_at_the_clock_that_an_instance_has_now(clock_mhz):
    """30 ms of it and of decode keep 40 at 1410 MHz, or where nobody knows it, and not at 1005."""
    pool = [colocated("slow", 18), colocated("b", 22), colocated("c", 22)]
    slow, *others = [at_clock(one, 1005.0 if one is pool[0] else clock_mhz) for one in pool]
    assert route(slow, *others, prompt_tokens=200) == "b"
    assert route(at_clock(slow, clock_mhz), *others, prompt_tokens=200) == "slow"


def test_a_gap_that_is_late_at_the_clock_of_now_and_not_at_the_fastest_is_not_shared():
    """45 ms of decode and 350 tokens at 1410 MHz are lost; of 250 they are 35, and 41 at 1200."""
    pool = [colocated("slow", 22, pending=250), colocated("b", 20), colocated("c", 20)]
    pool[0] = at_clock(pool[0], 1200.0)
    assert route(*pool, prompt_tokens=1000) == "b"
    pool[0] = at_clock(colocated("slow", 22, pending=350), 1200.0)
    assert route(*pool, prompt_tokens=1000) == "slow"


class KnowsTheFastest(Line):
    """Knows nothing of the other clocks, and counts what it is asked of decode."""

    def __init__(self):
        self.asked = 0

    def forecast(self, load, clocks_mhz):
        self.asked += load.decode_requests > 0
        mean_s = super().forecast(load, clocks_mhz).mean_s
        mean_s = np.where(clocks_mhz < 1410.0, math.nan, mean_s)
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)


@pytest.mark.parametrize(
    ("clock_mhz", "running", "pending", "chosen"),
    [(1410.0, 20, 0, "a"), (1005.0, 20, 500, "late"), (1005.0, 0, 500, "late")],
)
def test_no_clock_is_asked_for_but_the_fastest_where_no_other_matters(
    clock_mhz, running, pending, chosen
):
    """That of now says nothing of a gap that is late at any, nor where nobody waits for a token."""
    model = KnowsTheFastest()
    late = at_clock(colocated("late", running, pending), clock_mhz)
    late = dataclasses.replace(late, predictor=model)
    assert route(colocated("a", 18), late, colocated("c", 18), prompt_tokens=400) == chosen
    assert model.asked == bool(running)


def test_where_nobody_waits_for_a_token_no_prompt_is_late():
    pool = [colocated("a", 3), colocated("b", 2), colocated("idle", 0)]
    assert route(*pool, prompt_tokens=1000) == "idle"


def test_among_equals_instances_take_turns():
    pool, router = [colocated(name) for name in "abc"], SharedGaps()
    assert "".join(route(*pool, router=router) for _ in range(5)) == "abcab"


def test_what_is_pending_leaves_half_of_the_first_token_s_threshold_and_the_mean_of_eight_tokens():
    """Half of 400 ms are 2000 tokens; and of the 40 ms of a gap decode leaves 30, 240 of eight."""
    for name, pending, ttft_s in (("threshold", 1700, 0.4), ("eight tokens", 2100, 9.0)):
        pool = [colocated(at, ttft_s=ttft_s) for at in "ac"]
        pool.insert(1, colocated("late", pending=pending, ttft_s=ttft_s))
        assert route(*pool, prompt_tokens=290) == "late", name
        assert route(*pool, prompt_tokens=350) == "a", name


def test_no_instance_is_fuller_than_chance_makes_it():
    """Two standard deviations above 20 requests are 29, that which waits among them."""
    for running, goes_to in ((28, "late"), (29, "a")):
        pool = [colocated("a"), colocated("late", running, pending=500), colocated("c")]
        assert route(*pool, prompt_tokens=350) == goes_to


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            colocated,
            st.uuids().map(str),
            st.sampled_from([0, 1, 20, 40, 200]),
            st.sampled_from([0, 50, 500, 5000]),
            ttft_s=st.sampled_from([0.0, 0.1, 0.6]),
            budget_s=st.sampled_from([0.0, 0.005, 0.04]),
            max_batch_tokens=st.sampled_from([512, 8192]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([0, 1, 200, 1000, 100_000]),
    st.sampled_from([0.0, 0.3, 5.0]),
)
def test_whatever_is_pending_elsewhere_it_is_no_fuller_than_that(pool, prompt_tokens, waited_s):
    """Where prompts were pending everywhere, a fuller one went on, and those there waited."""
    request = dataclasses.replace(samples.request(0, prompt_tokens), waited_s=waited_s)
    chosen = SharedGaps().route(request, pool)
    requests = {one.instance: requests_of(one) for one in pool}
    fewest = min(requests.values())
    assert requests[chosen] <= fewest + DEVIATIONS * math.sqrt(fewest + 1)


def test_what_is_on_its_way_counts():
    """A burst that no report shows yet makes the gap late that it has been sent to."""
    sent = Reservation(requests=2, prompt_tokens=500)
    assert route(colocated("a"), colocated("b", reserved=sent), prompt_tokens=400) == "b"


@pytest.mark.parametrize(
    "unknown",
    [
        {"prompts_first": False},
        {"predictor": None},
        {"levels_mhz": ()},
        {"ttft_s": float("inf")},
        {"budget_s": float("inf")},
    ],
)
def test_in_turn_where_engines_mix_or_not_enough_is_known(unknown):
    router = SharedGaps()
    pool = [colocated("a"), colocated("late", pending=500), colocated("c", **unknown)]
    assert Counter(route(*pool, router=router) for _ in range(6)) == dict.fromkeys(
        ("a", "late", "c"), 2
    )


def test_a_share_is_one():
    with pytest.raises(ConfigError, match=r"share = 1\.5 .*0 to 1"):
        SharedGaps(1.5)
    assert repr(SharedGaps()) == "SharedGaps(0.5)"


def test_shared_gaps_keep_more_tokens_in_time_than_turns():
    """An L40S near saturation: in turn, nearly every prompt makes a gap of its own late."""
    tables = {
        "policies": ["static-max", "fixed:2520"],
        "cluster": {"hardware": "l40s", "prefill": 0, "decode": 0, "colocated": 4},
        "workload": {"rate_rps": 37.0, "duration_s": 10.0},
    }
    in_turn, shared = (run.result for run in compare(load_scenario(None, tables)).runs)
    assert shared.itl_token_attainment > in_turn.itl_token_attainment + 0.02
    assert shared.ttft_attainment >= in_turn.ttft_attainment - 0.001
    assert shared.itl_attainment >= in_turn.itl_attainment - 0.001
