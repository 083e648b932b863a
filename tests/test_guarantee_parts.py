"""The parts of the guarantee in plain numbers: each boundary, each step, each count."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tests.guarantee_steps import LEVELS, LOAD, World, issued, mean_at, one, told
from tests.mutants import QUICK, bound
from voltana.in_force import LAG_S, NEAR, SETTLED, ClocksInForce, is_settled
from voltana.predictors.conformal.label_ledger import ISSUERS, WINDOW, LabelLedger
from voltana.predictors.conformal.margin_book import MAX_GROUPS, PATIENCE, MarginBook
from voltana.predictors.conformal.quantile_tracker import Counted, QuantileTracker, read_number
from voltana.promise import Margin, MarginPart, Statement, bound_on
from voltana.slo_reserve import SloReserve
from voltana.values import Forecast

STATEMENT = Statement(alpha=0.1, gamma=0.2, q_lo=0.05, q_cert=0.5, delay=2, max_weight=3.0)
DECAYING = Statement(alpha=0.1, gamma=0.2, decay=1.0, decay_labels=10, floor=0.05)


class TestStatement:
    def test_its_numbers(self):
        assert STATEMENT.q_hi == pytest.approx(0.5 + 3 * 0.2 * 3.0 * 0.9)
        assert [Statement(alpha=a).cold_labels for a in (0.01, 0.1, 0.9)] == [99, 9, 1]
        assert Statement(alpha=0.006).cold_labels == 166
        assert bound_on(0.02, 0.5, 0.004) == pytest.approx(0.032)

    def test_its_steps(self):
        assert [STATEMENT.step(n) for n in (0, 5, 10**6)] == [0.2, 0.2, 0.2]
        assert [DECAYING.step(n) for n in (0, 10, 20)] == pytest.approx([0.2, 0.1, 0.2 / 3])
        assert DECAYING.step(30) == pytest.approx(0.05)
        assert DECAYING.step(1000) == 0.05

    def test_its_constants(self):
        assert STATEMENT.constant(0.2, 50) == pytest.approx((STATEMENT.q_hi - 0.2) / 0.2)
        reach = DECAYING.q_hi - DECAYING.q_lo
        start = (DECAYING.q_hi - 0.15) / 0.2
        for updates, step in ((0, 0.2), (1, 0.2), (11, 0.1), (500, 0.05)):
            spread = reach * (1 / step - 1 / 0.2)
            assert DECAYING.constant(0.15, updates) == pytest.approx(start + spread)
            assert DECAYING.constant(0.15, updates, 0.3) == pytest.approx(
                0.15 / 0.2 + (0.3 - DECAYING.q_lo) * (1.0 / step - 1.0 / 0.2)
            )
            assert DECAYING.window_constant(updates) == pytest.approx(reach / step)

    def test_a_part_holds_from_its_clock_on(self):
        parts = tuple(
            MarginPart(from_mhz=mhz, group=str(mhz), quantile=0.1, certifiable=True)
            for mhz in (0.0, 900.0, 1200.0)
        )
        margin = Margin(parts=parts, offset_s=0.005)
        found = [margin.part_at(mhz).from_mhz for mhz in (1.0, 899.0, 900.0, 1199.0, 1200.0, 9e9)]
        assert found == [0.0, 0.0, 900.0, 900.0, 1200.0, 1200.0]


class TestTracker:
    def made(self, first=0.3):
        return QuantileTracker(STATEMENT, first)

    def test_moves_by_its_rule_and_stays_in_its_range(self):
        tracker = self.made()
        tracker.move(missed=True, weight=1.0)
        assert tracker.quantile == pytest.approx(0.3 + 0.2 * 0.9)
        tracker.move(missed=False, weight=2.0)
        assert tracker.quantile == pytest.approx(0.48 - 0.2 * 2 * 0.1)
        assert tracker.updates == 2
        low = self.made(0.06)
        assert low.move(missed=False, weight=3.0) == 0.0
        assert low.quantile == 0.05
        high = self.made(STATEMENT.q_hi - 0.09)
        assert high.move(missed=True, weight=1.0) == pytest.approx(0.9 - 0.09 / 0.2)
        assert high.quantile == STATEMENT.q_hi

    def test_counts_what_it_scores(self):
        tracker = self.made()
        for kind, missed, weight in (
            (Counted.CERTIFIED, True, 3.0), (Counted.CERTIFIED, False, 1.0),
            (Counted.BLOCKED, False, 2.0), (Counted.ELSEWHERE, False, 0.5),
        ):  # fmt: skip
            tracker.update(missed=missed, weight=weight, counts_as=kind, issued_at=tracker.updates)
        account = tracker.account
        assert (account.certified, account.missed) == (4.0, 3.0)
        assert (account.blocked, account.elsewhere) == (2.0, 0.5)
        assert tracker.highest == pytest.approx(0.3 + 0.2 * 3.0 * 0.9)
        constant = (tracker.highest - 0.3) / 0.2
        assert tracker.bound() == pytest.approx(0.1 * 6.5 + constant)
        account.forgiven = 7.0
        assert tracker.bound() == pytest.approx(0.1 * 6.5 + constant + 7.0)

    @pytest.mark.parametrize(("others", "overdue"), [(0, 0), (2, 0), (3, 1)])
    def test_more_than_k_others_make_a_label_overdue(self, others, overdue):
        tracker = self.made()
        for _ in range(others):
            tracker.move(missed=False, weight=1.0)
        tracker.update(missed=False, weight=1.0, counts_as=Counted.CERTIFIED, issued_at=0)
        assert tracker.overdue == overdue
        assert tracker.longest == others

    def test_goes_on_from_what_it_wrote(self):
        tracker = self.made()
        for number in range(9):
            tracker.update(
                missed=number % 2 == 0, weight=2.0, counts_as=Counted.CERTIFIED, issued_at=0
            )
        again = QuantileTracker.restore(STATEMENT, tracker.to_dict())
        assert again.to_dict() == tracker.to_dict()
        assert again.bound() == tracker.bound()
        assert (again.first, again.overdue, again.updates) == (0.3, tracker.overdue, 9)
        assert again.highest == tracker.highest > tracker.first
        assert again.longest == 8

    def test_an_older_file_says_nothing_of_the_highest_margin(self):
        """So that it may have been as high as may be, and the bound is that of the statement."""
        older = self.made().to_dict()
        del older["highest"]
        again = QuantileTracker.restore(STATEMENT, older)
        assert again.highest == STATEMENT.q_hi
        with pytest.raises(ValueError, match="is not from"):
            QuantileTracker.restore(STATEMENT, {**older, "highest": 0.2})

    def test_numbers_of_a_file_are_in_their_range(self):
        assert read_number(1, 0.0, 2.0) == 1.0
        assert read_number(2.0 + 1e-10, 0.0, 2.0) == 2.0
        assert read_number(-1e-10, 0.0) == 0.0
        for value in (True, "1", None):
            with pytest.raises(TypeError):
                read_number(value, 0.0)
        for value in (-0.1, 2.1, math.nan, math.inf):
            with pytest.raises(ValueError, match="is not from 0 to 2"):
                read_number(value, 0.0, 2.0)


class TestBook:
    def test_a_cold_start_waits_for_its_labels_and_then_for_a_model_that_fits(self):
        book = MarginBook(STATEMENT, None)
        needed = STATEMENT.cold_labels
        assert needed == 9
        for _ in range(needed - 1):
            book.warm_up(0.2)
        assert book.cold
        book.warm_up(0.5)
        assert not book.cold
        assert book.quantile("new") == 0.5

    def test_it_is_given_up_after_ten_times_as_many(self):
        book = MarginBook(STATEMENT, None)
        for _ in range(PATIENCE * 9 - 1):
            book.warm_up(9.0)
            assert book.cold
        book.warm_up(9.0)
        assert not book.cold
        assert book.quantile("new") == STATEMENT.q_cert

    def test_errors_of_a_model_that_was_being_learned_are_left_behind(self):
        book = MarginBook(STATEMENT, None)
        for score in (9.0, *[0.1] * 8, 0.2):
            assert book.cold
            book.warm_up(score)
        assert book.quantile("new") == pytest.approx(0.2)

    def test_a_restored_one_goes_on_where_it_was(self):
        book, again = MarginBook(STATEMENT, None), MarginBook(STATEMENT, None)
        for _ in range(5):
            book.warm_up(9.0)
        again.restore(book.to_dict())
        for _ in range(PATIENCE * 9 - 6):
            again.warm_up(9.0)
            assert again.cold
        again.warm_up(9.0)
        assert not again.cold

    @pytest.mark.parametrize(("groups", "works"), [(MAX_GROUPS, True), (MAX_GROUPS + 1, False)])
    def test_as_many_groups_are_restored_as_are_kept(self, groups, works):
        book, again = MarginBook(STATEMENT, 0.2), MarginBook(STATEMENT, 0.2)
        for number in range(groups):
            book.tracker(str(number))
        if works:
            again.restore(book.to_dict())
            assert len(again.trackers) == groups
        else:
            with pytest.raises(ValueError, match="at most 64"):
                again.restore(book.to_dict())

    def test_a_part_says_what_was_known(self):
        book = MarginBook(STATEMENT, 0.2)
        part = book.part("a", 900.0, known=True)
        assert part == MarginPart(
            from_mhz=900.0, group="a", quantile=0.2, certifiable=True, updates=0
        )
        for _ in range(3):
            book.score(part, missed=False, weight=1.0, counts_as=Counted.CERTIFIED)
        assert book.part("a", 0.0, known=True).updates == 3
        assert book.part("a", 0.0, known=True).quantile == pytest.approx(0.14)
        assert book.quantile("new") == pytest.approx(0.14)  # from the pooled one
        unknown = book.part("a", 0.0, known=False)
        assert (unknown.quantile, unknown.certifiable) == (math.inf, False)
        for number in range(MAX_GROUPS - 1):
            assert book.part(str(number), 0.0, known=True).quantile < math.inf
            book.tracker(str(number))
        assert book.part("one more", 0.0, known=True).quantile == math.inf
        assert book.part("a", 0.0, known=True).quantile < math.inf

    def test_a_margin_at_q_cert_certifies_and_one_above_does_not(self):
        book = MarginBook(STATEMENT, 0.5)
        assert book.part("a", 0.0, known=True).certifiable
        part = book.part("a", 0.0, known=True)
        book.score(part, missed=True, weight=1.0, counts_as=Counted.CERTIFIED)
        assert not book.part("a", 0.0, known=True).certifiable
        assert book.part("b", 0.0, known=True).certifiable

    def test_the_account_is_the_sum(self):
        book = MarginBook(STATEMENT, 0.2)
        for group in ("a", "b"):
            for _ in range(4):
                book.score(
                    dataclasses.replace(book.part(group, 0.0, known=True), updates=0),
                    missed=True, weight=1.0, counts_as=Counted.CERTIFIED,
                )  # fmt: skip
        total = book.account()
        assert (total["certified"], total["missed"], total["overdue"]) == (8.0, 8.0, 2.0)
        assert total["bound"] == pytest.approx(sum(t.bound() for t in book.trackers.values()))


class TestLedger:
    def test_the_loop_that_was_quiet_longest_is_forgotten(self):
        ledger = LabelLedger()
        for number in range(ISSUERS):
            assert ledger.admit(str(number), 1)
        assert not ledger.admit("0", 1)  # which is not quiet any more
        assert ledger.admit("one more", 1)
        assert not ledger.admit("0", 1)
        assert not ledger.admit("2", 1)
        assert ledger.admit("1", 1)
        assert ledger.refused == 3

    def test_a_window_of_numbers_is_remembered(self):
        ledger = LabelLedger()
        for sequence in (10, 12, 11, 10 + WINDOW):
            assert ledger.admit("a", sequence)
        for sequence in (10, 11, 12, 10 + WINDOW):
            assert not ledger.admit("a", sequence)
        assert ledger.admit("a", 13)
        assert not ledger.is_forgotten("a", 13)
        assert ledger.is_forgotten("a", 10)
        assert not ledger.is_forgotten("nobody", 3)


class TestReserve:
    def test_moves_by_its_rule(self):
        reserve = SloReserve(0.1, eta=0.2, first=0.5, least=0.4, most=0.52)
        reserve.update(missed=False)
        assert reserve.rho == pytest.approx(0.52)
        reserve.update(missed=False)
        assert reserve.rho == 0.52
        reserve.update(missed=True)
        assert (reserve.rho, reserve.forgiven) == (0.4, 1)
        assert (reserve.requests, reserve.missed) == (3, 1)
        assert reserve.bound() == pytest.approx(0.1 * 3 + 0.1 / 0.2)
        exact = SloReserve(0.5, eta=0.25, first=0.5, least=0.375, most=1.0)
        exact.update(missed=True)
        assert (exact.rho, exact.forgiven) == (0.375, 0)

    def test_its_defaults(self):
        reserve = SloReserve()
        assert reserve.rho == 0.7
        assert reserve.bound() == pytest.approx((0.7 - 0.05) / 0.005)
        reserve.update(missed=True)
        assert reserve.rho == pytest.approx(0.7 - 0.005 * 0.95)


class TestClocks:
    def test_the_edges_of_what_is_near_and_settled(self):
        assert is_settled(1000.0 * (1 + SETTLED), 1000.0)
        assert is_settled(1000.0 * (1 - SETTLED), 1000.0)
        assert not is_settled(1000.0 * (1 + SETTLED) + 0.1, 1000.0)
        assert not is_settled(math.nan, 1000.0)
        for reading, expected in ((1000.0 * (1 - NEAR), 1000.0), (994.9, 994.9), (1004.0, 1000.0)):
            clocks = ClocksInForce()
            clocks.command(1000.0, 1.0)
            assert clocks.slowest_mhz(reading, 1.0) == expected

    def test_what_lags_is_over_after_the_lag_and_not_before(self):
        clocks = ClocksInForce()
        for mhz, at_s in ((1410.0, 1.0), (600.0, 2.0), (1410.0, 3.0)):
            clocks.command(mhz, at_s)
        assert clocks.slowest_mhz(1410.0, 2.0 + LAG_S) == 600.0
        assert clocks.slowest_mhz(math.nan, 3.0 + LAG_S) == 600.0
        assert clocks.slowest_mhz(math.nan, 3.0 + LAG_S + 1e-6) == 1410.0

    def test_a_clock_that_is_asked_for_again_is_no_new_one(self):
        clocks = ClocksInForce()
        clocks.command(600.0, 1.0)
        clocks.command(1410.0, 2.0)
        clocks.command(1410.0, 9.0)
        assert clocks.slowest_mhz(math.nan, 9.1) == 1410.0

    def test_a_reading_of_nothing_is_none(self):
        clocks = ClocksInForce()
        clocks.command(900.0, 1.0)
        assert [clocks.slowest_mhz(x, 1.0) for x in (0.0, -5.0, math.nan)] == [900.0] * 3

    def test_latencies_between_clocks(self):
        forecast = Forecast(
            clocks_mhz=np.array([600.0, 1000.0, 1200.0]),
            mean_s=np.array([0.05, 0.04, 0.039]), upper_s=np.array([0.06, 0.05, 0.049]),
        )  # fmt: skip
        assert forecast.standing_for(1000.0) == (1, 1.0)
        assert forecast.standing_for(1300.0) == (2, 1.0)
        assert forecast.standing_for(900.0) == (1, pytest.approx(1000 / 900))
        assert forecast.standing_for(700.0) == (0, 1.0)  # 0.05 is less than 0.04 x 1000/700
        assert forecast.standing_for(800.0) == (0, 1.0)  # as much: the slower one
        assert forecast.standing_for(540.0) == (0, pytest.approx(600 / 540))
        assert forecast.standing_for(539.0) == (-1, math.inf)
        assert forecast.standing_for(math.nan) == (-1, math.inf)


class TestWrapper:
    def test_an_alarm_widens_for_as_many_labels_as_it_says(self):
        made = one()
        usual = made.forecast(LOAD, LEVELS).upper_s[-1]
        made.widen(0.5, labels=3)
        for number in range(3):
            assert made.forecast(LOAD, LEVELS).upper_s[-1] > usual
            told(made, issued(made, number=number), 1e-6, 1410.0)
        assert made.forecast(LOAD, LEVELS).upper_s[-1] < usual
        made.widen(0.5, labels=0)
        assert made.forecast(LOAD, LEVELS).upper_s[-1] < usual

    def test_the_bound_of_a_forecast_is_that_of_its_margin(self):
        made = one()
        forecast = made.forecast(LOAD, LEVELS)
        mean_s = mean_at(1410.0)
        assert forecast.upper_s[-1] == pytest.approx(mean_s + 0.15 * (mean_s + 0.005))
        assert forecast.margin.offset_s == 0.005
        assert made.expected_s(LOAD, 1410.0) == pytest.approx(mean_s)

    @pytest.mark.parametrize(("weight", "bounded"), [(0.0, True), (4.0, True), (4.1, False)])
    def test_weights_up_to_the_most_are_bounded(self, weight, bounded):
        part = bound(weight=lambda load: weight).margin(LOAD).parts[0]
        assert (part.quantile < math.inf) is bounded
        assert QUICK.max_weight == 4.0

    def test_causes_add_up(self):
        made = one()
        for number, cause in enumerate(("a", "b", "a")):
            made.lose(issued(made, number=number), cause)
        assert made.unlabelled == {"a": 2, "b": 1}
        assert made.lost == made.account()["lost"] == 3
        again = one()
        again.restore(made.to_dict())
        assert again.unlabelled == {"a": 2, "b": 1}


def test_the_slowest_clock_is_scored_in_its_own_group():
    made = one(level_edges_mhz=(500.0,))
    decision = issued(made, budget=8.0)
    assert decision.promise.in_force_mhz == LEVELS[0] == 600.0
    told(made, decision, 1e-6, 600.0)
    assert list(made.groups) == [decision.forecast.margin.part_at(600.0).group]
    assert decision.forecast.margin.parts[0].group not in made.groups


class TestLoop:
    def test_an_unchanged_clock_is_asked_for_again_after_half_its_lease(self):
        world = World()
        world.loop.decide(LOAD)
        start = world.loop._sequence
        world.time.advance(0.99)
        world.loop.decide(LOAD)
        assert world.loop._sequence == start
        world.time.advance(0.01)
        world.loop.decide(LOAD)
        assert world.loop._sequence == start + 1

    def test_decisions_are_numbered_one_by_one(self):
        world = World()
        assert [world.loop.decide(LOAD).promise.sequence for _ in range(3)] == [1, 2, 3]

    def test_ends_are_told_once_and_in_order(self):
        world, seen = World(), []
        inner = world.loop.controller
        world.loop.controller = type(
            "Seeing", (), {"decide": lambda self, o: (seen.append(o.ended), inner.decide(o))[1]}
        )()
        decisions = [world.loop.decide(LOAD) for _ in range(2)]
        for number, decision in enumerate(decisions):
            world.loop.learn(
                decision, load=LOAD, latency_s=0.01, clock_mhz=1410.0, ended_at_s=number + 0.5
            )
        world.loop.decide(LOAD)
        world.loop.decide(LOAD)
        assert [len(ended) for ended in seen] == [0, 0, 2, 0]
        assert [outcome.ended_at_s for outcome in seen[2]] == [0.5, 1.5]
        assert [outcome.decision for outcome in seen[2]] == decisions

    def test_the_fastest_clock_is_that_under_limits(self):
        from voltana.values import Limit

        world = World()
        assert world.loop.fastest_mhz() == 1410.0
        world.loop.set_limit(Limit(source="a", max_mhz=1100.0))
        assert world.loop.fastest_mhz() == 1005.0
