"""Promises to requests: docs/guarantee-requests.md under attack, and in the simulator."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mutants import Frozen
from voltana.cluster.promised_requests import REQUESTS, PromisedRequests
from voltana.cluster.request_promises import RequestPromises
from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.comparison_report import markdown_report
from voltana.evaluation.promise_tables import REQUEST_HEADERS, request_rows
from voltana.evaluation.scenario import ARRIVALS, load_scenario
from voltana.predictors.conformal import Conformal
from voltana.promise import Statement
from voltana.slo import Slo

TIGHT = Statement(alpha=0.1, gamma=0.1, q_cert=0.4, delay=3)

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "arrive", "end", "expire"]),
        st.sampled_from(["miss", "keep", "miss if low", "oldest", "newest"]),
        st.sampled_from([0.1, 0.5, 0.7, 0.8, 0.95, 1.2, math.inf, math.nan]),
    ),
    max_size=300,
)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(STEPS, st.sampled_from([TIGHT, REQUESTS, dataclasses.replace(TIGHT, delay=0)]))
def test_promised_misses_stay_within_the_bound_whatever_happens(steps, statement):
    """Ends come in any order, and misses where they hurt most."""
    ledger, waiting, now_s = PromisedRequests(statement), [], 0.0
    promised, scored, missed = set(), 0, 0
    for number, (what, how, expected_s) in enumerate(steps):
        now_s += 0.3
        if what == "arrive":
            deadline = now_s if how == "miss" else math.nan
            if ledger.arrive(number, expected_s=expected_s, left_s=1.0, now_s=deadline):
                promised.add(number)
            waiting.append((number, deadline + 1.0))
        elif what == "end" and waiting:
            key, _ = waiting.pop(0 if how == "oldest" else -1)
            late = how == "miss" or (how == "miss if low" and ledger.margin < 0.35)
            ledger.end(key, missed=late)
            ledger.end(key, missed=not late)  # only the first counts
            if key in promised:
                scored, missed = scored + 1, missed + late
        elif what == "expire":
            ledger.expire(now_s)
            gone = [item for item in waiting if item[1] < now_s and item[0] in promised]
            scored, missed = scored + len(gone), missed + len(gone)
            waiting = [item for item in waiting if item not in gone]
        account = ledger.account()
        assert account["in_flight"] <= statement.delay + 1
        assert account["forgiven"] == 0
        assert (account["scored"], account["missed"]) == (scored, missed)
        assert missed <= account["bound"] + 1e-9
        assert missed <= statement.alpha * (scored + account["blocked"]) + most(statement) + 1e-9


def most(statement):
    """C, worked out once more: with K promised at the same time."""
    beyond = (1.0 - statement.alpha) * (statement.delay + 1)
    return (statement.q_cert - 0.15) / statement.gamma + beyond


def test_the_constant_is_nearly_attained():
    ledger, misses = PromisedRequests(TIGHT), 0
    for number in range(40):
        burst = [n for n in range(4) if ledger.arrive((number, n), expected_s=0.1, left_s=9.0)]
        for n in burst:
            ledger.end((number, n), missed=True)
            misses += 1
    excess = misses - TIGHT.alpha * misses
    assert most(TIGHT) - 4 <= excess <= most(TIGHT)


def test_what_is_not_promised_is_bounded_by_nothing_and_lets_promises_return():
    ledger = PromisedRequests(TIGHT)
    for number in range(30):
        ledger.arrive(number, expected_s=0.1, left_s=9.0)
        ledger.end(number, missed=True)
    assert not ledger.arrive("blocked", expected_s=0.1, left_s=9.0)
    ledger.end("blocked", missed=False)
    needed = math.ceil((TIGHT.delay + 1) * (1 - TIGHT.alpha) / TIGHT.alpha)
    for number in range(needed):
        if ledger.arrive(("again", number), expected_s=0.1, left_s=9.0):
            break
        ledger.end(("again", number), missed=False)
    else:
        pytest.fail("no promise has returned")


def test_overload_earns_no_credit():
    ledger = PromisedRequests(TIGHT)
    for number in range(50):
        assert not ledger.arrive(number, expected_s=2.0, left_s=1.0)
        ledger.end(number, missed=False)
    assert ledger.margin == 0.15
    assert ledger.account()["blocked"] == 0


def test_a_request_is_scored_once_at_its_deadline_or_its_end():
    ledger = PromisedRequests(TIGHT)
    assert ledger.arrive("late", expected_s=0.1, left_s=1.0, now_s=5.0)
    assert ledger.arrive("in time", expected_s=0.1, left_s=1.0, now_s=5.0)
    ledger.end("in time", missed=False)
    ledger.expire(6.0)
    assert ledger.account()["missed"] == 0
    ledger.expire(6.01)
    ledger.end("late", missed=False)
    account = ledger.account()
    assert (account["scored"], account["missed"], account["in_flight"]) == (2, 1, 0)


def test_a_name_that_is_under_way_is_not_promised_twice():
    ledger = PromisedRequests(TIGHT)
    assert ledger.arrive("a", expected_s=0.1, left_s=1.0)
    assert ledger.arrive("a", expected_s=99.0, left_s=1.0)
    assert ledger.account()["promised"] == ledger.account()["arrived"] == 1


@pytest.mark.parametrize(
    ("field", "build"),
    [
        ("decay", lambda: PromisedRequests(dataclasses.replace(TIGHT, decay=0.5))),
        ("first", lambda: PromisedRequests(TIGHT, first=0.5)),
        ("first", lambda: PromisedRequests(TIGHT, first=math.nan)),
    ],
)
def test_what_the_proof_does_not_cover_is_refused(field, build):
    with pytest.raises(ConfigError, match=field):
        build()


@pytest.mark.parametrize(("rate_rps", "least"), [(30.0, 0.95), (120.0, 0.0)])
def test_the_simulator_promises_and_keeps(rate_rps, least):
    flags = {
        "policies": ["voltana"], "cluster": {"prefill": 1, "decode": 1},
        ARRIVALS: {"rate_rps": rate_rps, "duration_s": 10.0},
    }  # fmt: skip
    comparison = compare(load_scenario(None, flags))
    (run,) = [run for run in comparison.runs if run.result.policy == "voltana"]
    for leg in ("ttft", "itl"):
        account = run.result.requests[leg]
        assert account["arrived"] > 200
        assert account["promised"] >= least * account["arrived"]
        assert account["missed"] <= account["bound"]
        assert account["forgiven"] == account["in_flight"] == 0
        assert account["scored"] == account["promised"]
    late = (run.record.ttft_s > 0.6).sum()
    assert run.result.requests["ttft"]["missed"] <= late
    rows = request_rows(comparison)
    assert [row[:2] for row in rows] == [("voltana", "TTFT"), ("voltana", "ITL")]
    for row in rows:
        account = run.result.requests[row[1].lower()]
        shown = tuple(f"{account[name]:.0f}" for name in ("kept", "missed", "bound", "constant"))
        assert row[4:8] == shown
    assert " | ".join(REQUEST_HEADERS) in markdown_report(comparison, ())


def test_the_constant_the_bound_and_how_many_missed_together_in_numbers():
    ledger = PromisedRequests(TIGHT)
    assert (ledger.constant(), ledger.together()) == (pytest.approx(2.5), 0.0)
    for number in range(4):
        ledger.arrive(number, expected_s=0.1, left_s=9.0)
    assert ledger.constant() == pytest.approx(0.25 / 0.1 + 0.9 * 4)
    for number in range(4):
        ledger.end(number, missed=True)
    highest = 0.15 + 4 * 0.1 * 0.9
    assert ledger.together() == pytest.approx((highest - 0.4) / 0.09)
    assert ledger.bound() == pytest.approx(0.1 * 4 + 2.5 + 3.6)
    ledger.arrive("blocked", expected_s=0.1, left_s=9.0)
    ledger.end("blocked", missed=False)
    assert ledger.bound() == pytest.approx(0.1 * 5 + 2.5 + 3.6)
    assert ledger.together() == pytest.approx((highest - 0.4) / 0.09)  # the most so far


@pytest.mark.parametrize("first", [TIGHT.q_lo, TIGHT.q_cert])
def test_a_margin_at_either_end_may_begin(first):
    assert PromisedRequests(TIGHT, first).arrive(1, expected_s=0.1, left_s=9.0)


def test_what_is_lost_is_forgiven_and_makes_room():
    ledger = PromisedRequests(TIGHT)
    for number in range(4):
        assert ledger.arrive(number, expected_s=0.1, left_s=9.0)
    assert not ledger.arrive("fifth", expected_s=0.1, left_s=9.0)
    before = ledger.bound()
    ledger.lose()
    assert (ledger.lost, ledger.in_flight) == (4, 0)
    assert ledger.bound() == pytest.approx(before + 4)
    assert ledger.account()["forgiven"] == 4
    ledger.end(0, missed=True)  # nobody knows it any more
    assert (ledger.scored, ledger.missed) == (0, 0)
    assert ledger.arrive(0, expected_s=0.1, left_s=9.0)


def test_what_is_withdrawn_is_neither_hit_nor_miss():
    ledger = PromisedRequests(TIGHT)
    ledger.arrive(1, expected_s=0.1, left_s=9.0)
    ledger.withdraw(1)
    account = ledger.account()
    assert (account["withdrawn"], account["scored"], account["in_flight"]) == (1, 0, 0)
    assert ledger.margin == 0.15


def test_lateness_counts_from_where_it_began_and_equal_is_in_time():
    ledger = PromisedRequests(TIGHT)
    ledger.arrive(1, expected_s=0.1, left_s=9.0, begun_s=10.0, threshold_s=0.5)
    assert not ledger.late(1, 12.0, parts=4)
    assert ledger.late(1, 12.1, parts=4)
    assert not ledger.late("unknown", 1e9)
    ledger.begin(1, 11.0)
    assert not ledger.late(1, 13.0, parts=4)
    ledger.begin("unknown", 11.0)
    assert ledger.in_flight == 1


def test_a_name_that_comes_again_has_a_deadline_of_its_own():
    ledger = PromisedRequests(TIGHT)
    ledger.arrive(1, expected_s=0.1, left_s=1.0, now_s=0.0)
    ledger.end(1, missed=False)
    ledger.arrive(1, expected_s=0.1, left_s=5.0, now_s=0.5)
    ledger.expire(2.0)
    assert (ledger.missed, ledger.in_flight) == (0, 1)
    ledger.expire(5.5)
    assert ledger.missed == 0
    ledger.expire(5.6)
    assert ledger.missed == 1


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "arrive", "end", "abort", "stall", "lose", "restart"]),
        st.integers(0, 7),
        st.booleans(),
    ),
    max_size=200,
)


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(ACTIONS)
def test_an_adversary_of_aborts_stalls_losses_and_restarts_stays_within_the_bound(actions):
    """It sees the margin, decides every latency, and knows which of its requests are promised."""
    ledger, running, now_s, truly_missed, born = PromisedRequests(TIGHT), {}, 0.0, 0, 0
    for what, which, late in actions:
        now_s += 0.1
        keys = list(running)
        key = keys[which % len(keys)] if keys else None
        if what == "arrive":
            born += 1
            running[born] = ledger.arrive(
                born, expected_s=0.3, left_s=1.0, now_s=now_s if late else math.nan
            )
        elif what == "end" and key is not None:
            truly_missed += running.pop(key) and late
            ledger.end(key, missed=late)
        elif what == "abort" and key is not None:
            running.pop(key)
            ledger.withdraw(key)
        elif what == "stall":
            now_s += 5.0
            before = ledger.missed
            ledger.expire(now_s)
            truly_missed += ledger.missed - before
            running = {k: v and k in ledger._open for k, v in running.items()}
        elif what == "lose":  # and all of them miss
            truly_missed += sum(running.values())
            ledger.lose()
            running = {}
        elif what == "restart":
            text = ledger.to_json()
            ledger = PromisedRequests.restore(json.loads(text))
            assert ledger.to_json() == text
        account = ledger.account()
        assert truly_missed <= account["missed"] + account["forgiven"]
        assert truly_missed <= account["bound"] + 1e-9
        ended = account["scored"] + account["withdrawn"] + account["lost"]
        assert account["promised"] == ended + account["in_flight"]
        assert account["in_flight"] == sum(running.values()) <= TIGHT.delay + 1
        # P3: with the most that missed together in the place of all that were in flight.
        labels = account["scored"] + account["blocked"]
        most_s = TIGHT.alpha * labels + 2.5 + 0.9 * account["together"] + account["forgiven"]
        assert truly_missed <= most_s + 1e-9


class Loop:
    """As much of a loop as promises ask of one."""

    def __init__(self):
        self.predictor = Conformal(Frozen(), first=0.15)

    def fastest_mhz(self):
        return 1410.0


def test_a_prompt_with_nothing_to_compute_takes_no_time():
    promises = RequestPromises(Loop(), Slo(ttft_s=1e-6, itl_s=1.0), 100)
    for key, tokens in ((1, 0), (2, 1)):
        promises.arrived(key, arrival_s=0.0, pending_tokens=tokens, now_s=0.0)
    assert promises.ttft.arrived == 2
    assert (promises.ttft.promised, promises.ttft.margin) == (0, 0.15)  # the jitter m0 counts
    promises = RequestPromises(Loop(), Slo(ttft_s=1e-3, itl_s=1.0), 100)
    promises.arrived(1, arrival_s=0.0, pending_tokens=0, now_s=0.0)
    assert promises.ttft.promised == 1


def test_routers_are_told_the_margin_as_far_as_anything_is_promised_with_it():
    slo = Slo(ttft_s=0.6, itl_s=0.05)
    assert RequestPromises(None, slo, 100).ttft_margin == 0.0
    promises = RequestPromises(Loop(), slo, 100)
    assert promises.ttft_margin == 0.0  # no first token is expected here
    for key in range(100):  # all promised at once, and all of them late
        promises.arrived(key, arrival_s=0.0, pending_tokens=10, now_s=0.0)
    assert promises.ttft_margin == 0.15
    for key in range(100):
        promises.first_token(key, 9.0)
    assert promises.ttft.margin > REQUESTS.q_cert == promises.ttft_margin
