"""The guarantee of docs/guarantee.md: it holds for what we ship, and every mutant is caught."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.mutants import BOUND_BREAKERS, HONEST, MUTANTS, QUICK, Frozen, bound
from voltana.errors import ConfigError
from voltana.planning import lowest_safe_decision, settle
from voltana.predictors.conformal import BySize, ByTokens, Conformal, ConformalSnapshot, by_phase
from voltana.predictors.conformal.label_ledger import WINDOW, LabelLedger
from voltana.predictors.conformal.margin_book import MAX_GROUPS
from voltana.predictors.drift import DriftAware
from voltana.predictors.ecopred import EcoPred
from voltana.promise import Statement
from voltana.slo_reserve import SloReserve
from voltana.testing import samples
from voltana.testing import strategies as vst
from voltana.testing.guarantee_audit import audit, scored, the_bound_holds
from voltana.testing.guarantee_program import LEVELS_MHZ, Run, Stretch
from voltana.testing.latencies import LATENCY_KINDS, latencies_s
from voltana.testing.report import Violation
from voltana.values import Load, Outcome, Status

FEW = 25
MANY = 3000
"""Examples for each of the sound settings: 21,000 in all in the slow suite."""
HUNT = settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow, id="many")])
def test_every_audit_holds_for_every_program(name, examples):
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(vst.guarantee_programs())
    def holds(program):
        audit(Run(bound(**HONEST[name])).play(program))

    holds()


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name):
    @HUNT
    @given(vst.guarantee_programs())
    def holds(program):
        audit(Run(bound(MUTANTS[name])).play(program))

    with pytest.raises(Violation):
        holds()


@pytest.mark.parametrize("name", sorted(BOUND_BREAKERS))
def test_some_mutants_break_the_theorem_itself(name):
    @HUNT
    @given(vst.guarantee_programs())
    def holds(program):
        the_bound_holds(Run(bound(MUTANTS[name])).play(program))

    with pytest.raises(Violation):
        holds()


def test_the_constant_is_attained_so_the_bound_could_not_be_smaller():
    statement = Statement(alpha=0.1, gamma=0.05, delay=0)
    made = bound(statement=statement, weight=lambda load: 1.0)
    Run(made).play([Stretch(mode="above", length=100, budget=8.0)])
    (tracker,) = made.groups.values()
    account, constant = tracker.account, statement.constant(0.15, tracker.updates)
    excess = account.missed - 0.1 * (account.certified + account.blocked)
    labels_certified = [account.certified, account.missed]
    assert labels_certified[0] == labels_certified[1] > 10
    assert account.missed * 0.9 >= constant - 0.9
    assert excess <= constant + 1e-9


def test_programs_reach_every_kind_of_label():
    kinds = set()
    for mode in ("below", "unsettled", "huge", "miss if certified"):
        for budget in (0.9, 1.1, 2.5, 8.0):
            made = bound()
            trace = Run(made).play([Stretch(mode=mode, length=60, budget=budget)])
            for label in trace.labels:
                found = scored(label)
                promise = label.issued.decision.promise
                unsettled = abs(label.clock_mhz / promise.in_force_mhz - 1) > 0.02
                status = label.issued.decision.status
                kinds.add((status, unsettled, found and found.missed))
    expected = {
        (Status.CERTIFIED, False, True), (Status.CERTIFIED, False, False),
        (Status.CERTIFIED, True, True), (Status.CERTIFIED, True, None),
        (Status.SATURATED, False, None), (Status.SATURATED, False, False),
    }  # fmt: skip
    assert kinds >= expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", LATENCY_KINDS)
@pytest.mark.parametrize("learning", [False, True])
def test_violations_stay_within_the_bound_for_every_temper(kind, seed, learning):
    """Certified decisions over their budget, whatever the latencies do and the model learns."""
    inner = EcoPred(max_clock_mhz=1410.0) if learning else Frozen()
    made = Conformal(inner, QUICK, first=None)
    run = Run(made)
    slowdowns = latencies_s(kind, 800, 1.0, seed)
    load = Load.decode(64, 40_000)
    for slowdown in slowdowns:
        run.issue(Stretch(mode="below", budget=1.6))
        if not run._waiting:
            continue
        issued = run._waiting.pop()
        promise = issued.decision.promise
        latency_s = samples.linear_latency_s(load, promise.in_force_mhz) * float(slowdown)
        run._apply(issued, latency_s, promise.in_force_mhz, duplicate=False)
    audit(run.trace)
    for tracker in made.groups.values():
        assert tracker.account.violated <= tracker.account.missed <= tracker.bound() + 1e-9
    if kind == "stationary":
        assert made.groups["decode"].account.certified > 100


def test_leaving_the_range_ends_in_no_certificate():
    made = bound()
    trace = Run(made).play([Stretch(mode="huge", length=80, budget=8.0)])
    last = [label.issued.decision for label in trace.labels][-1]
    assert last.status is not Status.CERTIFIED
    assert last.forecast.upper_s[-1] == math.inf


class SinglePrecision(Frozen):
    """As a model on an accelerator answers: its arithmetic rounds at the seventh digit."""

    def forecast(self, load, clocks_mhz):
        mean_s = super().forecast(load, clocks_mhz).mean_s.astype(np.float32)
        return dataclasses.replace(
            super().forecast(load, clocks_mhz), mean_s=mean_s, upper_s=mean_s
        )


@pytest.mark.parametrize("share", [1.0, 0.9], ids=["as issued", "lowered by the controller"])
@pytest.mark.parametrize("predictor", [Frozen, SinglePrecision])
def test_every_certified_violation_is_a_miss_whatever_became_of_the_upper_bound(predictor, share):
    """The budget is what `upper_s` says, and the label just above it."""
    made = Conformal(predictor(), QUICK, first=0.15)
    statuses = set()
    for number in range(200):
        load = Load.decode(1 + number, 40_000 + 100 * number)
        issued = made.forecast(load, np.array(LEVELS_MHZ))
        forecast = dataclasses.replace(issued, upper_s=share * issued.upper_s)
        budget_s = float(forecast.upper_s[2])
        decision = settle(
            dataclasses.replace(lowest_safe_decision(forecast, budget_s), clock_mhz=LEVELS_MHZ[2]),
            clock_mhz=LEVELS_MHZ[2], achieved_mhz=math.nan, fastest_mhz=LEVELS_MHZ[-1],
            issuer="loop", sequence=number,
        )  # fmt: skip
        statuses.add(decision.status)
        made.learn(
            Outcome(
                load=load, clock_mhz=LEVELS_MHZ[2], ended_at_s=float(number), decision=decision,
                latency_s=math.nextafter(budget_s, 1.0),
            )
        )  # fmt: skip
        account = made.groups["decode"].account if made.groups else None
        assert account is None or account.violated <= account.missed
    assert (Status.CERTIFIED in statuses) is (share == 1.0)


def test_what_blocks_by_the_margin_alone_opens_again():
    made = bound(weight=lambda load: 1.0)
    run = Run(made)
    run.play([Stretch(mode="huge", length=80, budget=2.5)])
    trace = run.play([Stretch(mode="zero", length=400, budget=2.5)])
    assert trace.labels[-1].issued.decision.status is Status.CERTIFIED


def test_overload_earns_no_credit():
    made = bound()
    run = Run(made)
    run.play([Stretch(mode="above", length=5, budget=8.0)])
    before = made.groups["decode"].quantile
    run.play([Stretch(mode="zero", length=200, budget=0.9)])
    assert made.groups["decode"].quantile == before
    assert made.groups["decode"].account.unscored > 100


def test_a_duplicate_is_refused_and_teaches_nothing():
    class Counting(Frozen):
        labels = 0

        def learn(self, outcome):
            self.labels += 1

    inner = Counting()
    made = Conformal(inner, QUICK, first=0.15)
    Run(made).play([Stretch(mode="above", length=10, twice=True)])
    assert (inner.labels, made.refused) == (10, 10)


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=200))
def test_the_ledger_takes_each_number_once(numbers):
    ledger = LabelLedger()
    taken = [number for number in numbers if ledger.admit("loop", number)]
    assert len(taken) == len(set(taken))
    assert ledger.refused == len(numbers) - len(taken)


def test_labels_of_a_new_loop_are_not_taken_for_old_ones():
    ledger = LabelLedger()
    assert ledger.admit("d0@1", 5)
    assert not ledger.admit("d0@1", 5)
    assert ledger.admit("d0@2", 5)
    assert not ledger.admit("d0@1", 5 - WINDOW)
    for other in range(100):
        assert ledger.admit(f"x{other}", 0)


def test_cold_nothing_is_certified_until_enough_labels_have_come():
    made = bound(first=None)
    trace = Run(made).play([Stretch(mode="below", length=30, budget=8.0)])
    statuses = [label.issued.decision.status for label in trace.labels]
    assert statuses[: QUICK.cold_labels] == [Status.SATURATED] * 9
    assert statuses[QUICK.cold_labels] is Status.CERTIFIED


def test_state_survives_a_round_trip_through_json():
    made, again = bound(), bound()
    Run(made).play([Stretch(mode="miss when low", length=60), Stretch(mode="above", load=3)])
    state = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    again.restore(state)
    assert again.to_dict() == made.to_dict()
    assert again.margin(Load.decode(8, 100)) == made.margin(Load.decode(8, 100))
    with pytest.raises(ConfigError, match="statement"):
        bound(statement=Statement()).restore(state)


def test_a_snapshot_forecasts_alike_after_a_round_trip_through_json():
    made = bound(level_edges_mhz=(900.0,))
    Run(made).play([Stretch(mode="miss when low", length=60), Stretch(mode="above", load=3)])
    snapshot, clocks = made.snapshot(), np.array(LEVELS_MHZ)
    text = json.dumps(snapshot.to_dict(), allow_nan=False)
    again = ConformalSnapshot.from_dict(json.loads(text), snapshot.predictor, by_phase)
    for load in (Load.decode(64, 40_000), Load.prefill([(99, 0)])):
        live = made.forecast(load, clocks).upper_s.tolist()
        assert live == snapshot.forecast(load, clocks).upper_s.tolist()
        assert live == again.forecast(load, clocks).upper_s.tolist()


def test_the_account_sums_the_groups():
    made = bound()
    Run(made).play([Stretch(mode="above", length=9), Stretch(mode="broken", load=3, twice=True)])
    total, groups = made.account(), made.groups.values()
    assert total["missed"] == sum(g.account.missed for g in groups) > 0
    assert total["bound"] == pytest.approx(sum(g.bound() for g in groups))
    assert total["lost"] > 0
    assert total["refused"] == 10


def test_more_groups_than_can_be_held_get_no_bound():
    made = Conformal(Frozen(), QUICK, first=0.15, group=lambda load: str(load.decode_requests))
    for index in range(MAX_GROUPS):
        made._book.tracker(str(index))
    assert made.margin(Load.decode(1000, 10)).parts[0].quantile == math.inf


def test_a_weight_over_the_statements_gets_no_bound():
    made = bound(weight=lambda load: 5.0)
    part = made.margin(Load.decode(8, 100)).parts[0]
    assert (part.quantile, part.certifiable) == (math.inf, False)


def test_an_alarm_widens_bounds_for_a_while_but_not_scores():
    made = DriftAware(bound(kind=Conformal))
    clocks, load = np.array(LEVELS_MHZ), Load.decode(64, 40_000)
    before = made.forecast(load, clocks)
    made.predictor.widen(0.5, labels=3)
    wide = made.forecast(load, clocks)
    assert (wide.upper_s > before.upper_s).all()
    assert wide.margin == before.margin
    Run(made.predictor).play([Stretch(mode="exact", length=3)])
    assert (made.forecast(load, clocks).upper_s < wide.upper_s).all()


def test_a_late_label_beyond_k_is_counted_and_what_it_loses_is_forgiven():
    made = bound(
        statement=dataclasses.replace(QUICK, delay=0, max_weight=1.0), weight=lambda load: 1.0
    )
    Run(made).play([Stretch(mode="above", length=60, budget=8.0, order="latest first")])
    (tracker,) = made.groups.values()
    assert tracker.overdue > 0
    assert tracker.account.forgiven > 0
    assert tracker.account.missed <= tracker.bound() + 1e-9


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.0}, {"alpha": 1.0}, {"gamma": 0.0}, {"decay": -1.0}, {"delay": -1},
        {"q_lo": 2.0}, {"max_weight": 0.0}, {"decay": 0.5, "floor": 0.5}, {"alpha": math.nan},
        {"delay": math.inf},
    ],
)  # fmt: skip
def test_numbers_without_a_proof_are_refused(change):
    with pytest.raises(ConfigError, match="is not allowed"):
        Statement(**change)


@pytest.mark.parametrize(
    ("field", "build"),
    [
        ("level_edges_mhz", lambda: bound(level_edges_mhz=(900.0, 800.0))),
        ("level_edges_mhz", lambda: bound(level_edges_mhz=(math.nan,))),
        ("first", lambda: bound(first=math.nan)),
        ("quantile", lambda: bound().widen(math.nan)),
        ("labels", lambda: bound().widen(0.3, labels=-1)),
        ("edges", lambda: BySize((4096, 1024))),
        ("reference", lambda: ByTokens(0.0)),
        ("most", lambda: SloReserve(most=1.5)),
        ("least", lambda: SloReserve(least=0.0)),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field, build):
    with pytest.raises(ConfigError, match=f"^{field} = .* is not allowed: must be .*[.]$"):
        build()


@settings(deadline=None)
@given(
    st.lists(st.booleans(), max_size=500),
    st.floats(0.01, 0.5),
    st.floats(0.001, 0.3),
)
def test_the_reserve_bounds_misses_that_are_not_forgiven(misses, alpha, eta):
    reserve = SloReserve(alpha, eta=eta)
    for missed in misses:
        reserve.update(missed=missed)
        assert 0.05 <= reserve.rho <= 1.0
        assert reserve.missed - reserve.forgiven <= reserve.bound() + 1e-9


@given(st.integers(0, 6), st.floats(0.02, 0.3), st.lists(st.integers(0, 9), max_size=300))
def test_the_reserve_keeps_what_the_fastest_clock_can_keep(burst, alpha, script):
    """R2: below rho_star misses come in runs of `burst` at most beyond alpha."""
    eta, star = 0.01, 0.3
    reserve, allowance = SloReserve(alpha, eta=eta, least=0.05), float(burst)
    for choice in script:
        if reserve.rho <= star:
            missed = allowance >= 1.0 and choice < 8
            allowance = min(allowance + alpha, float(burst)) - missed
        else:
            missed, allowance = choice < 8, float(burst)
        reserve.update(missed=missed)
    assert reserve.forgiven == 0
    assert reserve.missed <= alpha * reserve.requests + (0.7 - star) / eta + burst + 1 + 1e-9
