"""Which labels count, what becomes of those that do not come, and a state that is damaged."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tests.guarantee_steps import LOAD, World, issued, mean_at, one, told
from tests.mutants import QUICK, bound
from voltana.predictors.conformal.label_ledger import WINDOW, LabelLedger
from voltana.testing.guarantee_program import LEVELS_MHZ, Run, Stretch
from voltana.values import Limit


def test_an_uncertified_miss_moves_nothing():
    made = bound(weight=lambda load: 1.0)
    run = Run(made)
    run.play([Stretch(mode="above", length=20, budget=8.0)])
    before = made.groups["decode"].quantile
    assert before > QUICK.q_cert
    run.play([Stretch(mode="above", length=5, budget=2.5)])
    assert made.groups["decode"].quantile == before


def test_a_label_in_time_that_overtakes_may_be_overtaken_by_any_number():
    """K is no multiple of the labels in flight once they overtake: `overdue` counts them."""
    made = one(dataclasses.replace(QUICK, delay=2))
    held = issued(made, number=0)
    for number in range(1, 60):
        told(made, issued(made, number=number), 1e-6, 1410.0)
    account = told(made, held, 1e-6, held.promise.in_force_mhz)
    assert account["overdue"] == 1


class TestWhichLabelsCount:
    def test_a_clock_that_is_15_percent_off_is_not_the_one_that_was_promised_for(self):
        made = one()
        decision = issued(made)
        in_force = decision.promise.in_force_mhz
        account = told(made, decision, mean_at(in_force), 0.85 * in_force)
        assert account["certified"] == 0
        assert account["unsettled"] + account["elsewhere"] == 1

    @pytest.mark.parametrize(("share", "certified"), [(1.019, 1), (1.021, 0), (0.981, 1)])
    def test_two_percent_is_settled(self, share, certified):
        made = one()
        decision = issued(made)
        in_force = decision.promise.in_force_mhz
        account = told(made, decision, 1e-6, share * in_force)
        assert account["certified"] == certified
        assert account["elsewhere"] == 1 - certified

    def test_an_unsettled_hit_earns_no_certified_credit(self):
        made = one()
        decision = issued(made)
        account = told(made, decision, 1e-6, 1410.0)
        assert decision.promise.in_force_mhz < 1300.0
        assert (account["certified"], account["elsewhere"]) == (0, 1)

    def test_what_ran_faster_is_held_against_the_bound_of_that_clock(self):
        """Between the two bounds it is no hit there, and no miss here: no credit."""
        made = one()
        decision = issued(made)
        forecast, in_force = decision.forecast, decision.promise.in_force_mhz
        between_s = (forecast.upper_at(1410.0) + forecast.upper_at(in_force)) / 2
        account = told(made, decision, between_s, 1410.0)
        assert (account["certified"], account["elsewhere"], account["unsettled"]) == (0, 0, 1)

    def test_between_two_clocks_the_bound_is_the_stricter_one(self):
        made = one()
        decision = issued(made)
        level = next(mhz for mhz in LEVELS_MHZ if mhz > 1.1 * decision.promise.in_force_mhz)
        upper_s = decision.forecast.upper_at(level)
        account = told(made, decision, upper_s * 0.9999, 1.1 * level)
        assert account["unsettled"] == 1

    def test_a_certified_miss_counts_at_any_clock(self):
        for clock_mhz in (1410.0, math.nan, 300.0):
            made = one()
            account = told(made, issued(made), 10.0, clock_mhz)
            assert (account["missed"], account["violated"]) == (1, 1)

    def test_violations_are_counted_and_only_those_over_the_budget(self):
        made = one()
        decision = issued(made, budget=8.0)
        over_bound_s = decision.forecast.upper_at(decision.promise.in_force_mhz) * 1.01
        assert over_bound_s < decision.budget_s
        account = told(made, decision, over_bound_s, decision.promise.in_force_mhz)
        assert (account["missed"], account["violated"]) == (1, 0)
        decision = issued(made, budget=8.0, number=2)
        account = told(made, decision, decision.budget_s * 1.01, decision.promise.in_force_mhz)
        assert (account["missed"], account["violated"]) == (2, 1)

    def test_only_the_margin_blocks_where_the_fastest_clock_would_do_not_the_one_asked_for(self):
        made = one(first=QUICK.q_hi)
        decision = issued(made, budget=1.2, clock_mhz=810.0, achieved_mhz=810.0)
        assert decision.forecast.mean_at(810.0) > decision.budget_s
        account = told(made, decision, 1e-6, 810.0)
        assert account["blocked"] == 1

    def test_a_cap_below_the_fastest_level_is_what_overload_is_measured_by(self):
        made = one(first=QUICK.q_hi)
        decision = issued(made, budget=1.2, clock_mhz=810.0, achieved_mhz=810.0, fastest_mhz=810.0)
        account = told(made, decision, 1e-6, 810.0)
        assert (account["blocked"], account["unscored"]) == (0, 1)

    def test_the_loop_names_the_fastest_clock_under_a_cap(self):
        world = World()
        assert world.loop.decide(LOAD).promise.fastest_mhz == 1410.0
        world.loop.set_limit(Limit(source="operator", max_mhz=1100.0))
        assert world.loop.decide(LOAD).promise.fastest_mhz == 1005.0
        world.loop.clear_limit("operator")
        assert world.loop.decide(LOAD).promise.fastest_mhz == 1410.0

    def test_a_label_is_scored_against_the_tracked_margin_not_the_widened_one(self):
        made = one()
        made.widen(0.6, labels=100)
        decision = issued(made, budget=8.0)
        forecast, in_force = decision.forecast, decision.promise.in_force_mhz
        tracked_s = forecast.margin.bound_s(
            forecast.margin.part_at(in_force), forecast.mean_at(in_force)
        )
        between_s = (tracked_s + forecast.upper_at(in_force)) / 2
        assert tracked_s < between_s < forecast.upper_at(in_force)
        assert told(made, decision, between_s, in_force)["missed"] == 1

    def test_a_cold_start_takes_the_largest_score_not_the_second_largest(self):
        made = one(dataclasses.replace(QUICK, alpha=0.2), first=None)
        for number, score in enumerate((0.1, 0.4, 0.2, 0.3)):
            mean_s = mean_at(1410.0)
            decision = issued(made, number=number, budget=8.0, clock_mhz=1410.0)
            told(made, decision, mean_s + score * (mean_s + 0.005), 1410.0)
        assert made.margin(LOAD).parts[0].quantile == pytest.approx(0.4)

    def test_the_ledger_remembers_4096_labels_and_no_fewer(self):
        ledger = LabelLedger()
        assert ledger.admit("loop", 5000)
        assert ledger.admit("loop", 5000 - WINDOW + 1)
        assert not ledger.admit("loop", 5000 - WINDOW + 1)
        assert not ledger.admit("loop", 5000 - WINDOW)
        assert ledger.is_forgotten("loop", 5000 - WINDOW)
        assert WINDOW == 4096


class TestLabelsThatDoNotCome:
    def test_an_unusable_latency_of_a_certified_decision_is_counted_with_its_cause(self):
        made = one()
        for number, latency_s in enumerate((math.nan, 0.0, -1.0, math.inf)):
            told(made, issued(made, number=number), latency_s, 1410.0)
        assert made.unlabelled == {"unusable latency": 4}
        assert made.account()["lost"] == made.lost == 4

    def test_a_label_that_was_given_up_is_refused_if_it_comes_after_all(self):
        made = one()
        decision = issued(made)
        made.lose(decision, "record lost")
        account = told(made, decision, 10.0, 1410.0)
        assert made.unlabelled == {"record lost": 1}
        assert (account["certified"], account["missed"], account["refused"]) == (0, 0, 1)

    def test_one_that_comes_too_late_to_tell_is_counted(self):
        made = one()
        first = issued(made, number=1)
        told(made, issued(made, number=2 + WINDOW), 1e-6, 1410.0)
        told(made, first, 10.0, 1410.0)
        assert made.unlabelled == {"too late": 1}

    def test_an_uncertified_decision_promised_nothing(self):
        made = one()
        made.lose(issued(made, budget=0.5), "record lost")
        assert made.unlabelled == {}


BROKEN = {
    "nan margin": lambda s: s["groups"]["decode"].update(quantile=math.nan),
    "margin over q_hi": lambda s: s["groups"]["decode"].update(quantile=5.0),
    "margin as text": lambda s: s["groups"]["decode"].update(quantile="0.2"),
    "nan start": lambda s: s["groups"]["decode"].update(first=math.nan),
    "nan pooled": lambda s: s["pooled"].update(quantile=math.nan),
    "pooled is missing": lambda s: s.update(pooled=None),
    "nan in the account": lambda s: s["groups"]["decode"]["account"].update(missed=math.nan),
    "less than nothing": lambda s: s["groups"]["decode"]["account"].update(certified=-1.0),
    "more violated than missed": lambda s: s["groups"]["decode"]["account"].update(violated=1e6),
    "infinite updates": lambda s: s["groups"]["decode"].update(updates=math.inf),
    "nan in the causes": lambda s: s.update(unlabelled={"record lost": math.nan}),
    "no causes": lambda s: s.update(unlabelled=[]),
    "nan cold score": lambda s: s.update(cold=[math.nan]),
    "unknown entry": lambda s: s["groups"]["decode"]["account"].update(more=1.0),
    "no groups": lambda s: s.pop("groups"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_state_is_refused_and_changes_nothing(name):
    source, made = bound(), bound()
    Run(source).play([Stretch(mode="miss when low", length=60)])
    state = source.to_dict()
    BROKEN[name](state)
    before = made.to_dict()
    with pytest.raises((KeyError, TypeError, ValueError)):
        made.restore(state)
    assert made.to_dict() == before
    assert made.margin(LOAD).parts[0].certifiable
