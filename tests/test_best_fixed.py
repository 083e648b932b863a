"""Fixed clocks: named ones, and the best pair for a trace against all pairs."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.errors import ConfigError, UnknownNameError
from voltana.evaluation import best_fixed
from voltana.evaluation.best_fixed import MOST_RUNS, SEARCH, BestFixed, PairRuns
from voltana.evaluation.compare import compare
from voltana.evaluation.comparison_report import caption, markdown_report, rows, to_json
from voltana.evaluation.pair_race import Race
from voltana.evaluation.pair_search import Score, fibonacci_search, refined, search
from voltana.evaluation.scenario import ARRIVALS, load_scenario
from voltana.plant.workload.prefixes import Prefixes
from voltana.policies import get_policy
from voltana.policies.default import LEVELS
from voltana.policy import InstanceContext
from voltana.serving.router.routers import make_routers, own_modules
from voltana.serving.router.settings import RouterTable
from voltana.values import Role

A100_LEVELS = "570,660,750,840,930,1020,1110,1200,1305,1410"
HOPPER_LEVELS = "795,930,1050,1185,1320,1455,1590,1725,1845,1980"

CASES = {
    "decode instances sleep below some clock": {
        "cluster": {"prefill": 1, "decode": 2},
        "slo": {"ttft_ms": 400.0, "itl_ms": 45.0},
        "workload": {"name": "sharegpt", "rate_rps": 30.0, "duration_s": 10.0},
        "levels": A100_LEVELS,
    },
    "a large model under a tight ITL": {
        "cluster": {"hardware": "h100-sxm", "model": "qwen3-32b", "prefill": 1, "decode": 1},
        "slo": {"ttft_ms": 400.0, "itl_ms": 22.0},
        "workload": {"name": "sharegpt", "rate_rps": 10.0, "duration_s": 10.0},
        "levels": HOPPER_LEVELS,
    },
    "a small model under both": {
        "cluster": {"hardware": "h200-sxm", "prefill": 1, "decode": 1},
        "slo": {"ttft_ms": 150.0, "itl_ms": 12.0},
        "workload": {"name": "lmsys", "rate_rps": 60.0, "duration_s": 6.0},
        "levels": HOPPER_LEVELS,
    },
}


def scenario(*policies, **tables):
    return load_scenario(
        None,
        {
            "policies": list(policies),
            "cluster": {"prefill": 1, "decode": 1},
            ARRIVALS: {"rate_rps": 10.0, "duration_s": 3.0},
            **tables,
        },
    )


@pytest.fixture(scope="module")
def found():
    return compare(scenario("best-fixed", "static-max", levels="705,990,1200,1410"))


def test_a_fixed_policy_holds_its_clocks_under_the_default_policys_routers():
    policy = get_policy("fixed:1200/900")
    default = get_policy("voltana")
    assert repr(policy.prefill_router(0)) == repr(default.prefill_router(0))
    assert repr(policy.decode_router(0)) == repr(default.decode_router(0))
    record = compare(scenario("fixed:1200/900"), record_timelines=True).runs[0].record
    clocks = [instance.mean_clock_mhz for instance in record.instances]
    assert clocks == pytest.approx([1200.0, 900.0], rel=0.03)
    assert get_policy("fixed:1200").summary == get_policy("fixed:1200/1200").summary


def test_its_routers_see_the_models_that_they_ask_for():
    given = scenario("fixed:1200/900")
    cluster = given.cluster
    for role in (Role.PREFILL, Role.DECODE):
        context = InstanceContext(
            instance="i", role=role, table_mhz=cluster.hardware.clocks_mhz, slo=cluster.slo
        )
        made = get_policy("fixed:1200/900").control(context)
        assert made.predictor is not None
        assert made.power is not None


@pytest.mark.parametrize(
    ("name", "first", "remedy"),
    [
        ("fixed:1203/900", "clock_mhz = 1203.0 is not allowed", "Take 1200 or 1215 MHz."),
        ("fixed:2000", "clock_mhz = 2000.0 is not allowed", "Take 1410 MHz."),
        ("fixed:fast", "must be fixed:MHZ, or fixed:MHZ/MHZ", "Such as fixed:1200/900."),
        ("fixed:1200/900/600", "must be fixed:MHZ", "fixed:1200/900"),
        ("fixed:-5", "must be fixed:MHZ", "fixed:1200/900"),
    ],
)
def test_clocks_that_are_none_are_refused_with_the_nearest(name, first, remedy):
    with pytest.raises(ConfigError) as caught:
        scenario("static-max", name)
    assert first in str(caught.value)
    assert remedy in str(caught.value)


def test_a_fixed_clock_outside_the_users_levels_is_refused():
    with pytest.raises(ConfigError, match=r"1200\.0 is not allowed.*Take 1005 or 1410 MHz"):
        scenario("fixed:1200", levels="1005,1410")


def test_best_fixed_is_no_policy_to_serve_with():
    with pytest.raises(ConfigError, match=r"searched for one recorded trace.*fixed:MHZ/MHZ"):
        get_policy("best-fixed")
    with pytest.raises(UnknownNameError, match="best-fixed"):
        get_policy("best-fixt")


def test_the_clocks_found_are_in_table_json_and_report(found):
    plain = json.loads(to_json(found))["results"]
    chosen = plain[0]["chosen"]
    assert chosen["keeps_enough"]
    assert chosen["policy"] == f"fixed:{chosen['prefill_mhz']:g}/{chosen['decode_mhz']:g}"
    assert plain[1]["chosen"] is None
    text = f"{chosen['prefill_mhz']:.0f}/{chosen['decode_mhz']:.0f}"
    assert text in rows(found)[0]
    note = f"best-fixed is {chosen['policy']}, found in {chosen['runs']} runs."
    assert note in caption(found)
    assert note in markdown_report(found, [])


def test_the_pair_keeps_what_static_max_keeps_and_runs_again_by_its_name(found):
    best, reference = (run.result for run in found.runs)
    assert best.energy_j < reference.energy_j
    for name in ("ttft_attainment", "itl_attainment", "itl_token_attainment"):
        assert getattr(best, name) >= getattr(reference, name) - 0.01
    named = found.runs[0].choice.policy.name
    again = compare(scenario(named, "static-max", levels="705,990,1200,1410"))
    assert again.runs[0].result.energy_j == pytest.approx(best.energy_j, rel=1e-9)


def test_the_fastest_pair_is_taken_where_none_keeps_enough(monkeypatch):
    given = scenario("best-fixed", levels="705,1410")
    monkeypatch.setattr(PairRuns, "_short", lambda _self, _result: Score(0.5, math.inf))
    choice = BestFixed().find(given)
    assert (choice.prefill_mhz, choice.decode_mhz, choice.kept) == (1410.0, 1410.0, False)
    assert choice.runs == 2


def test_what_routers_win_over_static_max_is_not_given_away_again(monkeypatch):
    of_static_max, of_the_fastest_pair = (0.3, 1.0, 0.9), (0.7, 0.95, math.nan)
    results = iter((of_static_max, of_the_fastest_pair))

    def measured(_self, simulation):
        names = ("ttft_attainment", "itl_attainment", "itl_token_attainment")
        attained = dict(zip(names, next(results, of_static_max), strict=True))
        return dataclasses.replace(measure_of(simulation), **attained)

    measure_of = functools.partial(PairRuns._measured, PairRuns(scenario("best-fixed")))
    monkeypatch.setattr(PairRuns, "_measured", measured)
    allowed = PairRuns(scenario("best-fixed", levels="705,1410"))._allowed
    assert dataclasses.astuple(allowed) == pytest.approx((0.69, 0.99, 0.89))


def test_a_pair_that_never_ends_is_given_up_and_keeps_nothing(monkeypatch):
    given = scenario("best-fixed", levels="210,1410", slo={"ttft_ms": 1e6, "itl_ms": 1e6})
    assert PairRuns(given).score((0, 0)).short == 0
    monkeypatch.setattr(best_fixed, "PATIENCE", 1.0)
    impatient = PairRuns(given)
    assert impatient.score((0, 0)).short >= 1
    assert impatient.score((1, 1)).short == 0


def test_progress_rises_to_the_whole_trace():
    seen = []
    given = scenario("best-fixed", levels="705,1410")
    BestFixed().find(given, lambda name, _at_s, done: seen.append((name, done)))
    assert {name for name, _ in seen} == {SEARCH}
    assert [done for _, done in seen] == sorted(done for _, done in seen)
    assert seen[-1][1] == len(given.trace)


class Table:
    """Scores by formula in place of simulations."""

    def __init__(self, size, score, *, rises=True):
        self.size = size
        self.rises = rises
        self._score = score
        self._seen = {}

    @property
    def count(self):
        return len(self._seen) + 1

    def score(self, pair):
        assert all(0 <= at < size for at, size in zip(pair, self.size, strict=True))
        if self.count >= MOST_RUNS and pair not in self._seen:
            return Score(math.inf, math.inf)
        return self._seen.setdefault(pair, self._score(*pair))


@given(
    size=st.tuples(st.integers(1, LEVELS), st.integers(1, LEVELS)),
    least=st.tuples(st.integers(0, LEVELS), st.integers(0, LEVELS)),
    valley=st.tuples(st.floats(-5, LEVELS), st.floats(-5, LEVELS)),
)
def test_it_finds_the_best_pair_of_independent_clocks_in_the_runs_allowed(size, least, valley):
    def score(prefill, decode):
        top = (size[0] - 1, size[1] - 1)
        floor = [min(a, b) for a, b in zip(least, top, strict=True)]
        short = max(floor[0] - prefill, 0) + max(floor[1] - decode, 0)
        energy_j = abs(prefill - valley[0]) ** 1.5 + 2 * abs(decode - valley[1]) ** 1.5
        return Score(0.1 * short, 100.0 + energy_j)

    table = Table(size, score)
    best = search(table)
    pairs = itertools.product(*map(range, size))
    assert score(*best) == min(itertools.starmap(score, pairs))


@given(
    size=st.tuples(st.integers(1, LEVELS), st.integers(1, LEVELS)),
    least=st.tuples(st.integers(0, LEVELS), st.integers(0, LEVELS)),
    start=st.tuples(st.integers(0, LEVELS), st.integers(0, LEVELS)),
)
def test_refining_ends_at_a_pair_that_keeps_enough_or_at_the_fastest(size, least, start):
    top = (size[0] - 1, size[1] - 1)

    def score(prefill, decode):
        short = max(least[0] - prefill, 0) + max(least[1] - decode, 0)
        axis = int(least[1] - decode > least[0] - prefill)
        return Score(0.1 * short, 100.0 + prefill + decode, axis)

    table = Table(size, score)
    start = (min(start[0], top[0]), min(start[1], top[1]))
    found = refined(table, start)
    kept = score(*found).short == 0
    assert kept or found == top
    assert not kept or score(*found) <= score(*start)


@pytest.mark.parametrize("size", [(3, 3), (LEVELS, LEVELS)])
@pytest.mark.parametrize("find", [search, refined])
def test_where_a_faster_clock_takes_from_the_other_role_the_search_goes_on(find, size):
    """As under a power budget: the clocks share what does not do for the fastest pair."""
    top = size[0] - 1
    start = [(top, top)] if find is refined else []

    def score(prefill, decode):
        short = max(prefill + decode - 1.5 * top, 0.4 * top - min(prefill, decode), 0.0)
        axis = int(prefill > decode)
        return Score(0.01 * short, 100.0 + prefill + 2 * decode, axis)

    table = Table(size, score, rises=False)
    assert score(*find(table, *start)).short == 0
    assert find(Table(size, score), *start) == (top, top)


def test_fixed_clocks_that_keep_enough_within_a_power_budget_are_found():
    """The fastest take from each other: they keep 96 % of the mean ITLs, and 88 of the tokens."""
    given = load_scenario(
        None,
        {
            "policies": ["best-fixed"],
            "workload": {"rate_rps": 45.0, "duration_s": 12.0},
            "seed": 1,
            "power_budget_w": 850.0,
            "levels": "705,1005,1410",
        },
    )
    choice = BestFixed().find(given)
    assert (choice.prefill_mhz, choice.decode_mhz, choice.kept) == (705.0, 1005.0, True)


LONG = {
    "policies": ["best-fixed"],
    "cluster": {"prefill": 1, "decode": 1},
    "workload": {"name": "sharegpt", "rate_rps": 25.0, "duration_s": 80.0},
    "levels": "705,855,1005,1155,1305,1410",
}


def test_an_even_trace_is_searched_in_its_head_and_an_uneven_one_whole():
    given = load_scenario(None, LONG)
    head = best_fixed._head(given).trace
    assert len(head) == np.searchsorted(given.trace.arrival_s, best_fixed.HEAD_S)
    day = {**LONG["workload"], "arrival": "diurnal"}
    assert best_fixed._head(load_scenario(None, {**LONG, "workload": day})) is None
    short = {**LONG["workload"], "duration_s": 40.0}
    assert best_fixed._head(load_scenario(None, {**LONG, "workload": short})) is None


def test_the_head_of_a_trace_shares_what_the_whole_does():
    whole = load_scenario(None, LONG)
    many = len(whole.trace)
    prefixes = Prefixes.of_lists([[index, index + 1] for index in range(many)], 512)
    shared = dataclasses.replace(
        whole.trace, prefixes=prefixes, cached_tokens=np.arange(many, dtype=np.int64)
    )
    head = best_fixed._head(dataclasses.replace(whole, trace=shared)).trace
    last = len(head) - 1
    assert 0 < last < many - 1
    assert (len(head.prefixes), head.prefixes.of(last).ids) == (last + 1, (last, last + 1))
    assert head.cached_tokens.tolist() == list(range(last + 1))


@pytest.mark.slow
def test_giving_up_early_loses_nothing_that_could_win(monkeypatch):
    given = load_scenario(None, LONG)
    choice = BestFixed().find(given)
    monkeypatch.setattr(Race, "lost", lambda _self, _simulation: None)
    every = PairRuns(given, most=10**6)
    scores = {pair: every.score(pair) for pair in itertools.product(*map(range, every.size))}
    best = min(scores.values())
    clocks = {every.clocks_mhz(pair): score for pair, score in scores.items()}
    found = clocks[choice.prefill_mhz, choice.decode_mhz]
    assert found.short == best.short == 0
    assert found.energy_j <= 1.005 * best.energy_j


@given(low=st.integers(0, 5), length=st.integers(1, 40), best=st.integers(0, 39))
def test_fibonacci_search_finds_a_minimum_in_few_steps(low, length, best):
    asked = set()

    def score(index):
        assert low <= index < low + length
        asked.add(index)
        return Score(0.0, abs(index - (low + min(best, length - 1))))

    assert fibonacci_search(low, low + length - 1, score) == low + min(best, length - 1)
    assert len(asked) <= 8


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_search_finds_the_best_of_all_pairs(case):
    given = load_scenario(None, {"policies": ["best-fixed"], "seed": 3, **CASES[case]})
    choice = BestFixed().find(given)
    assert choice.kept
    assert choice.runs <= MOST_RUNS
    every = PairRuns(given, most=10**6)
    scores = {pair: every.score(pair) for pair in itertools.product(*map(range, every.size))}
    assert every.size == (10, 10)
    assert 0 < sum(score.short > 0 for score in scores.values()) < 100
    best = min(scores, key=scores.get)
    assert (choice.prefill_mhz, choice.decode_mhz) == every.clocks_mhz(best)


def test_a_router_beside_an_engine_imports_nothing_for_fixed_clocks_and_refuses_hindsight():
    assert own_modules(RouterTable(policy="fixed:1200/900")) == frozenset()
    prefill, decode = make_routers(RouterTable(policy="fixed:1200/900"))
    assert repr(prefill) == repr(get_policy("voltana").prefill_router(0))
    assert repr(decode) == repr(get_policy("voltana").decode_router(0))
    with pytest.raises(ConfigError, match="searched for one recorded trace"):
        make_routers(RouterTable(policy="best-fixed"))
