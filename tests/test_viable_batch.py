"""ViableBatch: no batch beyond its boundary as long as requests may wait, and triage where not."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiled_plant import Cliff, Creeping
from voltana.errors import ConfigError
from voltana.routers.least_loaded import LeastLoaded
from voltana.routers.viable_batch import (
    AT_BOUNDARY,
    FULL,
    LATE_SHARE,
    ViableBatch,
    largest_batch,
)
from voltana.testing import check_router, samples
from voltana.testing import strategies as vst
from voltana.values import Deferral, InstanceState, Reservation, Role

BUDGET_S = 0.065
TILE = 256


def decode(name, running, in_flight=None, **changes):
    state = InstanceState(running_requests=running, kv_tokens=230 * running, clock_mhz=1410.0)
    fields = {
        "instance": name,
        "state": state,
        "in_flight": running if in_flight is None else in_flight,
        "levels_mhz": (1005.0, 1200.0, 1410.0),
        "predictor": Cliff(),
        "budget_s": BUDGET_S,
    }
    return samples.candidate(0, Role.DECODE, **(fields | changes))


def ask(*candidates, slack_s=0.2, router=None):
    request = dataclasses.replace(samples.request(3), slack_s=slack_s)
    return (router or ViableBatch(LeastLoaded())).route(request, candidates)


def test_it_keeps_the_contract():
    check_router(ViableBatch).raise_if_failed()


def test_below_the_boundary_the_inner_router_chooses():
    assert ask(decode("a", 200), decode("b", 100)) == "b"


def test_a_full_batch_is_passed_over():
    assert ask(decode("a", 256), decode("b", 255)) == "b"
    assert ask(decode("a", 255), decode("b", 256)) == "a"


def test_a_request_waits_while_every_batch_is_full_and_those_on_their_way_count():
    deferral = ask(decode("a", 256), decode("b", 250, in_flight=256))
    assert isinstance(deferral, Deferral)
    assert deferral.reason == AT_BOUNDARY
    assert ask(decode("a", 256), decode("b", 250, in_flight=255)) == "b"


def test_few_may_be_late_for_the_boundary_and_all_where_nothing_but_room_is_lacking():
    assert ask(decode("a", 256)).late_share == LATE_SHARE
    assert ask(decode("a", 256), decode("b", 256)).late_share == LATE_SHARE
    assert ask(filled("a", 100, 0.9), filled("b", 120, 0.0)).late_share == 1.0
    assert ask(decode("a", 256), router=ViableBatch(late_share=0.25)).late_share == 0.25


def test_none_is_late_for_a_boundary_that_traps_nobody_or_has_been_passed():
    assert ask(decode("a", 256), decode("b", 257)).late_share == 0.0
    at_once = decode("a", 240, predictor=Creeping())
    assert isinstance(ask(at_once), Deferral)
    assert ask(at_once).late_share == 0.0


@pytest.mark.parametrize("late_share", [-0.1, 1.1, math.nan])
def test_what_is_no_share_is_refused(late_share):
    with pytest.raises(ConfigError, match=r"late_share = .* must be from 0 to 1"):
        ViableBatch(late_share=late_share)


def test_no_request_waits_where_the_next_tile_is_viable():
    roomy = {"predictor": Cliff(tile=384)}
    assert ask(decode("a", 256, **roomy), decode("b", 256, **roomy)) in {"a", "b"}


def test_the_boundary_is_the_models_not_a_setting():
    for tile in (64, 128, 512):
        full = {"predictor": Cliff(tile)}
        assert ask(decode("a", tile - 1, **full)) == "a"
        assert isinstance(ask(decode("a", tile, **full)), Deferral)


def test_what_may_wait_no_longer_joins_the_batch_that_is_lost_already():
    assert ask(decode("a", 256), decode("b", 300), slack_s=0.0) == "b"
    assert ask(decode("a", 310), decode("b", 300), decode("c", 256), slack_s=0.0) == "a"
    assert ask(decode("a", 256), decode("b", 256), slack_s=0.0) in {"a", "b"}  # one has to be


PROMPT = samples.request(3).prompt_tokens
RESERVED = 512.0


def filled(name, running, requests_of_room, **changes):
    """A decode instance whose KV cache has room for so many requests like the one asked about."""
    each = PROMPT + RESERVED
    capacity = 230 * running + RESERVED * running + requests_of_room * each
    return decode(
        name, running, kv_capacity_tokens=capacity, kv_reserved_tokens=RESERVED, **changes
    )


class Shown:
    """Chooses the first, and remembers among whom."""

    def route(self, _request, candidates):
        self.names = [candidate.instance for candidate in candidates]
        return self.names[0]


def among(*candidates):
    """Names of those that the inner router chooses among."""
    router = Shown()
    ask(*candidates, router=ViableBatch(router))
    return router.names


@pytest.mark.parametrize(
    ("line", "room", "ended", "beside", "names"),
    [
        (60, 50, 12.0, 0, ["a", "b"]),  # by far the most of the line join as others end
        (60, 50, 10.0, 0, ["b"]),  # of a burst all join, and few end meanwhile
        (60, 10, 120.0, 0, ["b"]),  # by chance too few end
        (4, 4, 120.0, 0, ["b"]),  # and of few that may be none
        (60, 50, 12.0, 1, ["b"]),  # nobody has to be woken
    ],
)
def test_nobody_is_woken_for_a_line_before_prefill_that_takes_no_room(
    line, room, ended, beside, names
):
    waiting = {"reserved": Reservation(requests=line, prompt_tokens=line * PROMPT)}
    waiting |= {"ended_meanwhile": ended}  # 11 have to
    busy = filled("a", 100, room, in_flight=100 + line, **waiting)
    assert among(busy, decode("b", beside)) == names


def test_one_beyond_its_boundary_is_filled_no_further_where_others_sleep():
    ending = {"reserved": Reservation(requests=60, prompt_tokens=60), "ended_meanwhile": 200.0}
    assert among(decode("a", 195, 255, **ending), decode("b", 0)) == ["a", "b"]
    assert among(decode("a", 196, 256, **ending), decode("b", 0)) == ["b"]


def test_nobody_else_is_asked_where_one_that_has_room_is_awake():
    line = {"reserved": Reservation(requests=60, prompt_tokens=60 * PROMPT)}
    busy = filled("a", 100, 50, in_flight=160, ended_meanwhile=20.0, **line)
    assert among(busy, decode("b", 0), decode("c", 0)) == ["a", "b", "c"]
    assert among(busy, decode("b", 0), decode("c", 1)) == ["b", "c"]


def test_of_a_line_the_prompts_of_those_count_that_join():
    """All of 60 would take more than there is; as most find the room of others that end, 16 do."""
    line = {"reserved": Reservation(requests=60, prompt_tokens=60 * 4096), "in_flight": 160}
    capacity = 230 * 100 + 20 * 4096 + 200.0
    busy = decode("a", 100, kv_capacity_tokens=capacity, ended_meanwhile=150.0, **line)
    assert among(busy, decode("b", 0)) == ["a", "b"]
    short = dataclasses.replace(busy, kv_capacity_tokens=capacity - 5 * 4096)
    assert among(short, decode("b", 0)) == ["b"]


@pytest.mark.parametrize(
    ("places", "ended", "names"),
    [
        (120, 41.0, ["a", "b"]),
        (120, 40.0, ["b"]),  # one more has to end before
        (116, 200.0, ["b"]),  # those that join may be 16, and it is one more
    ],
)
def test_places_of_the_engine_are_room_like_any_other(places, ended, names):
    line = {"reserved": Reservation(requests=60, prompt_tokens=60), "ended_meanwhile": ended}
    assert (
        among(decode("a", 100, 160, max_running_requests=places, **line), decode("b", 0)) == names
    )


def test_requests_wait_while_every_kv_cache_is_full_and_take_the_first_room():
    deferral = ask(filled("a", 100, 0.9), filled("b", 120, 0.0))
    assert isinstance(deferral, Deferral)
    assert deferral.reason == FULL
    assert ask(filled("a", 100, 0.9), filled("b", 120, 1.0)) == "b"


def test_requests_wait_while_every_engine_runs_as_many_as_it_may():
    def of_16(name, running, **changes):
        return decode(name, running, max_running_requests=16, **changes)

    assert ask(of_16("a", 16), of_16("b", 15)) == "b"
    assert ask(of_16("a", 3, in_flight=16), of_16("b", 15)) == "b"  # those on their way count
    waits = ask(of_16("a", 16), of_16("b", 16))
    assert isinstance(waits, Deferral)
    assert waits.reason == FULL
    # What may wait no longer is late wherever it goes: one line takes it.
    assert ask(of_16("a", 16), of_16("b", 18), slack_s=0.0) == "b"
    assert ask(of_16("a", 14), of_16("b", 18), slack_s=0.0) == "a"


def test_a_place_that_is_only_spoken_for_is_taken_by_whoever_waits_for_one():
    """By the time it is prefilled, one of those that run has ended."""

    def of_16(name, running, in_flight, **changes):
        return decode(name, running, in_flight, max_running_requests=16, **changes)

    for slack_s in (0.2, 0.0):
        # The shortest line, though another has more places empty.
        assert ask(of_16("a", 12, 18), of_16("b", 14, 17), slack_s=slack_s) == "b"
        assert ask(of_16("a", 16, 16), of_16("b", 14, 17), slack_s=slack_s) == "b"
    assert ask(of_16("a", 12, 18), of_16("b", 14, 15)) == "b"  # has a place
    assert isinstance(ask(of_16("a", 16, 18), of_16("b", 16, 17)), Deferral)
    # Memory is no place: what others will need is not free before they have ended.
    assert isinstance(ask(of_16("a", 12, 18, kv_capacity_tokens=230 * 12)), Deferral)


def test_no_more_join_a_line_than_places_are_spoken_for():
    """Of a burst the others wait here: where the next place is free is not known yet."""

    def of_16(name, running, in_flight, **changes):
        return decode(name, running, in_flight, max_running_requests=16, **changes)

    assert ask(of_16("a", 12, 19), of_16("b", 14, 18)) == "a"
    assert isinstance(ask(of_16("a", 12, 20), of_16("b", 14, 18)), Deferral)
    assert isinstance(ask(of_16("a", 0, 32), of_16("b", 0, 32)), Deferral)
    assert ask(of_16("a", 12, 20), of_16("b", 14, 19), slack_s=0.0) in {"a", "b"}


def test_where_there_is_no_other_a_line_for_places_is_always_joined():
    """Who waits knows no better later, and each place is empty until the next is prefilled."""
    few = {"max_running_requests": 16}
    for running, in_flight in ((16, 16), (16, 30), (0, 32)):
        assert ask(decode("a", running, in_flight, **few)) == "a"
    assert isinstance(ask(decode("a", 16, 16, kv_capacity_tokens=230 * 16, **few)), Deferral)
    assert isinstance(ask(decode("a", 256, 256)), Deferral)  # a boundary is another matter


def test_beyond_memory_one_cache_takes_the_excess_and_the_others_stay_in_time():
    assert ask(filled("a", 100, 0.0), filled("b", 100, -40.0), slack_s=0.0) == "b"
    assert ask(filled("a", 100, -30.0), filled("b", 100, -40.0), slack_s=0.0) == "b"
    assert ask(filled("a", 100, 2.0), filled("b", 100, -40.0), slack_s=0.0) == "a"


def test_a_line_before_prefill_is_shared_while_the_batches_that_run_have_room():
    """One batch took all of it, and outgrew its boundary while the others ran half empty."""
    behind, ahead = decode("a", 150, in_flight=500), decode("b", 160, in_flight=300)
    assert ask(behind, ahead, slack_s=0.0) == "b"
    assert ask(behind, decode("b", 256, in_flight=300), slack_s=0.0) == "a"
    cached = {"kv_capacity_tokens": 230 * 200}
    behind, ahead = decode("a", 150, 500, **cached), decode("b", 160, 300, **cached)
    assert ask(behind, ahead, slack_s=0.0) == "b"


def test_a_full_kv_cache_is_no_place_for_what_another_batch_can_take_late():
    lost, full = filled("a", 270, 3.0), filled("b", 300, -1.0)
    assert ask(lost, full, slack_s=0.0) == "a"


@given(
    st.lists(st.tuples(st.integers(0, 400), st.floats(-50.0, 50.0)), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.2]),
)
def test_nothing_joins_a_full_instance_while_another_has_room_and_nothing_waits_for_nothing(
    instances, slack_s
):
    pool = [
        filled(f"d{i}", running, room if 230 * running + room > 0 else 1.0)
        for i, (running, room) in enumerate(instances)
    ]
    free = {
        f"d{i}"
        for i, (running, room) in enumerate(instances)
        if running < TILE and (room >= 1.001 or 230 * running + room <= 0)
    }
    tight = any(abs(room - 1.0) < 0.01 for _, room in instances)
    answer = ask(*pool, slack_s=slack_s)
    if free and not tight:
        assert answer in free
    elif not tight:
        assert isinstance(answer, Deferral) == (slack_s > 0)


@pytest.mark.parametrize(
    "unknown",
    [
        {"predictor": None},
        {"levels_mhz": ()},
        {"budget_s": math.inf},
        {"state_age_s": 1.0},
        {"predictor": Cliff(tile=-1)},
    ],
)
def test_nothing_waits_where_a_model_is_missing_or_no_batch_fits(unknown):
    full, other = decode("a", 4000), decode("b", 4000, **unknown)
    assert ask(full, other) in {"a", "b"}
    assert ask(other) == "b"


def test_a_boundary_is_worked_out_once_for_each_model_and_context():
    router, full = ViableBatch(LeastLoaded()), decode("a", 256)
    ask(full, router=router)
    asked = full.predictor.asked
    assert asked > 0
    for _ in range(20):
        ask(full, router=router)
    assert full.predictor.asked == asked

    class Incomparable(Cliff):
        def __eq__(self, other):
            raise ValueError("the truth value of an array is ambiguous")

        __hash__ = None

    for tile in (256, 300):
        renewed = dataclasses.replace(full, predictor=Incomparable(tile))
        ask(renewed, router=router)
    assert ask(renewed, router=router) == "a"


@given(tile=st.integers(0, 300), guess=st.integers(0, 5000))
def test_a_guess_changes_no_boundary_and_the_nearer_it_is_the_less_is_asked(tile, guess):
    def found(guess):
        model = Cliff(tile)
        boundary = largest_batch(
            model, 1410.0, context_tokens=230.0, threshold_s=BUDGET_S, guess=guess
        )
        return boundary, model.asked

    right, asked = found(0)
    assert found(guess)[0] == right
    assert found(guess)[1] <= 2 * asked
    assert not right or found(right)[1] == 2


def test_instances_that_come_and_go_are_not_remembered_for_ever(monkeypatch):
    monkeypatch.setattr("voltana.routers.viable_batch.MOST_KNOWN", 3)
    router = ViableBatch(LeastLoaded())
    for index in range(20):
        assert ask(decode(f"d{index}", 255), router=router) == f"d{index}"
    assert len(router._known_limits) <= 3


@given(vst.candidates(Role.DECODE), vst.requests(), st.sampled_from([0.0, 0.1, math.inf]))
def test_any_state_gets_a_name_or_waits_only_where_nobody_has_room(candidates, request, slack_s):
    request = dataclasses.replace(request, slack_s=slack_s)
    router = ViableBatch(LeastLoaded())
    answer = router.route(request, candidates)
    if isinstance(answer, Deferral):
        assert slack_s > 0
        for candidate in candidates:
            alone = router.route(request, [candidate])
            assert isinstance(alone, Deferral)
    else:
        assert answer in {c.instance for c in candidates}


def test_an_argument_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="max_age_s"):
        ViableBatch(max_age_s=-1.0)


def test_what_cannot_wait_asks_no_model_again_of_what_has_not_changed():
    """Under overload every decision asked each model five times: 14 ms with 1,024 instances."""
    models = [Cliff() for _ in range(20)]
    pool = [decode(f"{n:02}", TILE + 20 + n, predictor=model) for n, model in enumerate(models)]
    router = ViableBatch(LeastLoaded())
    ask(*pool, slack_s=0.0, router=router)
    asked = sum(model.asked for model in models)
    changed = dataclasses.replace(pool[7].state, kv_tokens=pool[7].state.kv_tokens + 1)
    pool[7] = dataclasses.replace(pool[7], state=changed)
    ask(*pool, slack_s=0.0, router=router)
    assert sum(model.asked for model in models) - asked <= 10
