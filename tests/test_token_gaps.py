"""Gaps between tokens: how many are late, and which level keeps enough of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.gap_steps import (
    CLOCKS,
    LEVELS,
    PLANNED,
    late_of,
    left,
    lowest,
    lowest_in,
    play,
    remembering,
    row,
)
from voltana.controllers.runs_of_gaps import requests_late
from voltana.controllers.token_gaps import TokenGaps
from voltana.values import Load, Outcome


def test_a_gap_is_all_that_comes_between_two_tokens():
    gaps = remembering(19)
    gap_s, lost = late_of(gaps).last((1.0, 0.0))
    assert gap_s == pytest.approx(0.029)
    assert not lost
    # Iterations of 19 and 10 ms both fit 50 ms at 500 MHz; the gap of them at 600 MHz alone.
    assert lowest(remembering(*[19] * 100)) == 600.0
    assert lowest(remembering(*[0] * 100)) == 500.0


def test_what_was_measured_at_a_slow_clock_is_no_slower_work():
    assert lowest(remembering(*[19] * 100, clock_mhz=600.0)) == 600.0


def test_a_gap_that_no_clock_keeps_asks_for_none():
    assert late_of(remembering(60)).last((1.0, 0.0))[1]
    assert lowest(remembering(*[0, 0, 0, 0, 60] * 40)) < 1000.0


def test_a_share_of_the_gaps_may_be_late():
    few = remembering(*[0] * 95, *[19] * 5)
    assert lowest(few, allowed=0.1) == 500.0
    assert lowest(few, allowed=0.02) == 600.0


def test_what_was_late_by_the_clock_is_taken_from_what_may_be():
    """Of 100 gaps 10 may be late, and 8 are planned for; 8 or 11 are the same within 3."""
    of_late = [
        left(remembering(*[0] * (100 - late), *[29] * late, clock_mhz=600.0))
        for late in (0, 8, 11, 14, 18, 40)
    ]
    error = math.sqrt(100 * PLANNED + 1) / 100
    spare = 2.0 * PLANNED - error
    spent = [2.0 * PLANNED + error - late / 100 for late in (14, 18)]
    assert of_late == pytest.approx([spare, PLANNED, PLANNED, *spent, 0.0])
    # A gap in five that no clock keeps is not the clock's.
    assert left(remembering(*[0, 0, 0, 0, 60] * 20)) == pytest.approx(spare)
    # That of the first 50 nothing was late says nothing of a load that still grows; what was, does.
    assert left(remembering(*[0] * 50)) == pytest.approx(PLANNED)
    few = remembering(*[0] * 40, *[29] * 9, clock_mhz=600.0)
    assert left(few) == pytest.approx(2.0 * PLANNED + math.sqrt(49 * PLANNED + 1) / 49 - 9 / 49)


def test_every_gap_is_accounted_for_once():
    gaps = remembering(*[0] * 95, *[29] * 5, clock_mhz=600.0)
    late = late_of(gaps)
    assert late.allowed(1.0, 0.0) == late.allowed(1.0, 0.0)
    before = late.allowed(1.0, 0.0)
    play(gaps, [Load.prefill([(29, 0)]), Load.decode(10, 0)] * 30, clock_mhz=600.0, now_s=99.0)
    assert late.allowed(1.0, 0.0) < before
    # Of those that came while nobody planned, the ones that are remembered.
    play(gaps, [Load.decode(10, 0)] * 500, now_s=999.0)
    assert late.allowed(1.0, 0.0) < PLANNED


def test_prompts_have_ceased_once_chance_alone_would_not_keep_them_away_so_long():
    # Of those without prompts, half were followed by one with some. Of a run of n without the
    # chance was a half to the n-th power.
    assert not remembering(*[0, 0, 19] * 20, *[0] * 3).prompts_ceased
    assert remembering(*[0, 0, 19] * 20, *[0] * 6).prompts_ceased
    assert not remembering(*[0, 0, 19] * 20, *[0] * 6, 19).prompts_ceased
    # Prompts of ten chunks come no more often.
    assert not remembering(*[*[0] * 10, *[19] * 10] * 4, *[0] * 15).prompts_ceased
    # Where they are rare it takes longer, and where none ever came nothing has ceased.
    assert not remembering(*[0] * 49, 19, *[0] * 49).prompts_ceased
    assert not remembering(*[0] * 90).prompts_ceased
    assert not remembering().prompts_ceased


def test_gaps_of_no_length_ask_for_no_clock():
    gaps, load, nothing = remembering(), Load.decode(10, 0), np.zeros(len(LEVELS))
    for _ in range(3):
        gaps.begin(load, nothing, nothing, 1.0)
        gaps.end(Outcome(load=load, clock_mhz=1000.0, latency_s=0.0, ended_at_s=1.0), 1000.0, 1.0)
    assert gaps.gaps
    with np.errstate(all="raise"):
        growth = late_of(gaps).growth(gaps.prompts_share(), nothing)
        assert list(growth) == [1.0] * len(LEVELS)
        assert lowest_in(gaps, growth, 0.1) == LEVELS[0]


def test_in_a_longer_cycle_long_prompts_come_more_often_and_are_no_longer():
    gaps = remembering(*[0] * 96, *[34] * 4)
    # 44 ms at the fastest level and 55 ms at 800 MHz: 4 in 100, and half as many more in cycles
    # that are half as long again; one of two is kept by a rise. No prompt of 51 ms, late at any
    # clock, comes of it.
    for growth, allowed, level in ((1.0, 0.031, 500.0), (1.5, 0.031, 900.0), (1.5, 0.041, 500.0)):
        rates = np.full(len(LEVELS), growth)
        rates[-1] = 1.0
        assert lowest_in(gaps, rates, allowed) == level, growth
        assert left(gaps, 1.5) == pytest.approx(2.0 * PLANNED - math.sqrt(100 * PLANNED + 1) / 100)


def test_requests_are_late_by_their_mean_though_few_tokens_are():
    # A gap in ten of 310 ms is nobody's to keep, and the others fit at any level. With them the
    # mean is 40 ms at the fastest level, and 80 ms at the slowest.
    gaps = remembering(*([0] * 9 + [300]) * 80, alpha=0.01)
    assert lowest(gaps, alpha=0.01) > 500.0


def between_late(gaps, joining, **fields):
    """Share of the requests that are late by their mean at every level, not at the fastest one."""
    seen = gaps.seen
    gaps_s, rest_s = seen.between_s + seen.decode_s, seen.rest[:, None] * seen.between_s
    return requests_late(gaps_s, gaps_s[:, -1:], joining, rest_s, np.zeros(len(LEVELS)), **fields)


def test_requests_begin_behind_prompts():
    """One gap of 40 has prompts, so that the next are far for all who join behind it.

    At the slowest clock it alone makes runs of 16 late, for those who would begin anywhere.
    """
    gaps = remembering(*([0] * 39 + [320]) * 20, alpha=0.01)
    joining, fields = gaps.prompts_at_fastest_s, {"threshold_s": 0.05, "owed": 20.0}
    anywhere = between_late(gaps, np.ones(len(joining)), **fields)
    assert anywhere[0] > 0.02
    assert (between_late(gaps, joining, **fields) == 0.0).all()


def test_who_joins_by_the_first_of_several_prompts_waits_for_the_others():
    gaps = TokenGaps(CLOCKS, 0.1)
    play(gaps, [Load.decode(10, 0), *[Load.prefill([(30, 0)])] * 3, Load.decode(13, 0)])
    # Of three batches alike the first waits for two more, the second for one: a third, on average.
    assert gaps.seen.rest == pytest.approx([1 / 3])
    alone = remembering(30)
    assert alone.seen.rest == pytest.approx([0.0])
    mixed = TokenGaps(CLOCKS, 0.1)
    chunk = Load(prefill_tokens=30, decode_requests=10)
    play(mixed, [Load.decode(10, 0), chunk, Load.decode(11, 0)])
    assert mixed.seen.rest == pytest.approx([0.0, 0.0])


def test_answers_are_late_that_begin_with_what_others_had_computed():
    """A gap in 40 has two prompts of 150 ms: who joins by the first of them waits for the other.

    That makes answers of 4 late at the slowest clock; a gap of one prompt makes none late.
    """
    one, two = TokenGaps(CLOCKS, 0.01), TokenGaps(CLOCKS, 0.01)
    for gaps, prompts in ((one, [300]), (two, [150, 150])):
        between = [Load.prefill([(tokens, 0)]) for tokens in prompts]
        play(gaps, [Load.decode(10, 0), *[*[Load.decode(10, 0)] * 39, *between] * 20])
    fields = {"threshold_s": 0.05, "owed": 20.0}
    assert between_late(one, one.prompts_at_fastest_s, **fields)[0] == 0.0
    assert between_late(two, two.prompts_at_fastest_s, **fields)[0] > 0.0


def test_means_of_requests_say_that_they_ask_for_the_level():
    late = late_of(remembering(*([0] * 9 + [300]) * 80, alpha=0.01), alpha=0.01)
    nothing, growth = np.zeros(len(LEVELS)), np.ones(len(LEVELS))
    late.lowest(growth, nothing, 0.01, late.late_at_fastest(1.0, 0.0))
    assert late.means_bind
    late = late_of(remembering(*[38] * 100))
    late.lowest(growth, nothing, 0.01, late.late_at_fastest(1.0, 0.0))
    assert not late.means_bind


def test_of_a_few_gaps_short_runs_do_not_stand_for_long_answers():
    """One gap in five of 135 ms, the others of 10: the mean of many is 44 ms at 800 MHz.

    That of 8 is 52 ms there where they hold two such gaps, and no longer runs of 160 are counted.
    """
    few = remembering(*[0, 0, 0, 0, 125] * 32, alpha=0.01)
    assert lowest(few, allowed=0.05, alpha=0.01) == 800.0
    # Where the mean of all is late, long answers are, however few gaps are remembered.
    many = remembering(*[0, 0, 0, 0, 190] * 32, alpha=0.01)
    assert lowest(many, allowed=0.05, alpha=0.01) == 1000.0


def test_a_longer_cycle_brings_more_prompts():
    gaps = remembering(*[19] * 100)
    share = gaps.prompts_share()
    assert share[-1] == pytest.approx(19 / 29, rel=0.01)
    growth = late_of(gaps).growth(share, np.zeros(len(LEVELS)))
    assert growth[-1] == pytest.approx(1.0, rel=0.02)
    assert growth[0] == math.inf  # at half the clock prompts take more time than there is
    # A cycle of C = D / (1 - rho): 12.5 ms of decode, and 82 % of the time for prompts.
    assert growth[3] == pytest.approx(0.0125 / (1 - (19 / 29) / 0.8) / 0.029, rel=0.05)


def test_the_next_gap_may_be_longer_than_all_that_were_seen():
    """Of 31 gaps the last is the longest once in 31 times, and then late if it is so long."""
    few = remembering(*[5] * 30)
    # A gap of 15 ms and a threshold of 50: log(1.25) / log(50 / 15) of one in 31 at 800 MHz.
    assert lowest(few, allowed=0.006) == 800.0
    assert lowest(few, allowed=0.03) == 500.0
    # So the first few ask for more than they did themselves, and the less the more they are.
    asked = [lowest(remembering(*[5] * seen), allowed=0.02) for seen in (1, 10, 100)]
    assert asked == [1000.0, 800.0, 500.0]


def test_one_late_gap_of_the_first_few_does_not_ask_for_the_fastest_clock():
    """One of 12: more than a tenth is no more than what so few say, with 9 that were not seen."""
    few = remembering(*[5] * 11, 35)  # 45 ms: late at 800 MHz
    assert lowest(few, allowed=0.1) == 500.0
    assert lowest(remembering(*[5] * 9, *[35] * 6), allowed=0.1) >= 900.0


def test_gaps_that_a_rise_has_kept_are_not_expected_to_be_late():
    """At 600 MHz every gap of 29 ms is late; of those that the clock was raised for none was."""
    slow = remembering(*[0] * 60, *[21] * 40, clock_mhz=600.0)
    assert lowest(slow, allowed=0.1) == 700.0
    raised = TokenGaps(CLOCKS, 0.1)
    now_s, level = 0.0, LEVELS.index(600.0)
    for tokens in (0, *[0] * 60, *[21] * 40):
        for load in ([Load.prefill([(tokens, 0)])] if tokens else []) + [Load.decode(10, 0)]:
            raised.begin(
                load, row(load), row(load) if load.decode_requests else None, now_s, level=level
            )
            now_s += float(row(load)[-1])
            raised.end(None, 1000.0, now_s)
    assert lowest(raised, allowed=0.1) == 500.0


def test_gaps_that_no_clock_keeps_come_more_often_in_longer_cycles_and_no_rise_keeps_them():
    """One gap in ten is lost, half as often again in a longer cycle, whatever rises have kept."""
    raised = TokenGaps(CLOCKS, 0.1)
    now_s, level = 0.0, LEVELS.index(600.0)
    for tokens in (0, *[*[0] * 8, 21, 60] * 10):
        for load in ([Load.prefill([(tokens, 0)])] if tokens else []) + [Load.decode(10, 0)]:
            raised.begin(
                load, row(load), row(load) if load.decode_requests else None, now_s, level=level
            )
            now_s += float(row(load)[-1])
            raised.end(None, 1000.0, now_s)
    growth = np.array([1.5, 1.5, 1.0, 1.0, 1.0, 1.0])
    assert lowest_in(raised, growth, 0.04) == 700.0
    assert lowest_in(raised, growth, 0.08) == 500.0


def test_late_tokens_count_and_not_gaps():
    """A late gap of a batch of ninety is nine of ten; batches that grow are late at their end."""
    few, many = (
        [Load.decode(10, 0)] * (100 - late) + [Load.prefill([(29, 0)]), Load.decode(90, 0)] * late
        for late in (1, 3)
    )
    for loads, level in ((few, 500.0), (many, 800.0)):
        gaps = TokenGaps(CLOCKS, 0.1)
        play(gaps, loads)
        assert lowest(gaps, allowed=0.1) == level
