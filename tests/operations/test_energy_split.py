"""The energy of instances is split among tenants: whole, in proportion, whatever clients say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.serving.router.energy_split import EnergySplit, Tally
from voltana.serving.router.tenants import LONGEST, MOST, OTHER, UNNAMED, Tenants, tenant_in
from voltana.timebase import ManualTime


class World:
    def __init__(self):
        self.time = ManualTime()
        self.split = EnergySplit(self.time.now_s)

    def tally(self, tenant, *, requests=1, tokens=100):
        return Tally(self.split, tenant, requests=requests, prompt_tokens=tokens)


@pytest.fixture
def world():
    return World()


def test_prefill_is_split_by_tokens_and_decode_by_time(world):
    world.split.told("p", "prefill", 10.0)
    world.split.told("d", "decode", 10.0)
    long, short = world.tally("a", tokens=300), world.tally("b", tokens=100)
    for one in (long, short):
        one.sent("p")
        one.prefilled()
        one.decodes("d")
    world.time.advance(1.0)
    long.finished()
    world.time.advance(2.0)
    short.finished()
    world.split.told("p", "prefill", 50.0)
    world.split.told("d", "decode", 50.0)
    assert world.split.by_tenant_j["a", "prefill"] == pytest.approx(30.0)
    assert world.split.by_tenant_j["b", "prefill"] == pytest.approx(10.0)
    assert world.split.by_tenant_j["a", "decode"] == pytest.approx(10.0)
    assert world.split.by_tenant_j["b", "decode"] == pytest.approx(30.0)


def test_who_gives_up_pays_the_prompt_that_he_sent(world):
    world.split.told("p", "prefill", 0.0)
    gone, kept = world.tally("gone"), world.tally("kept")
    gone.sent("p")
    gone.finished()
    gone.finished()
    kept.sent("p")
    kept.prefilled()
    kept.finished()
    never = world.tally("held back")
    never.finished()
    world.split.told("p", "prefill", 8.0)
    assert dict(world.split.by_tenant_j) == {("gone", "prefill"): 4.0, ("kept", "prefill"): 4.0}


def test_what_nobody_used_is_told_apart_and_what_came_before_is_nobody_s(world):
    world.split.told("d", "decode", 1e6)
    assert not world.split.by_tenant_j
    assert not world.split.unattributed_j
    world.time.advance(5.0)
    world.split.told("d", "decode", 1e6 + 7.0)
    assert dict(world.split.unattributed_j) == {"decode": 7.0}


def test_an_agent_that_begins_anew_is_no_negative_energy(world):
    for energy_j in (5.0, 9.0, 2.0, math.nan, -3.0, math.inf, 2.0, 6.0):
        world.split.told("d", "decode", energy_j)
    assert dict(world.split.unattributed_j) == {"decode": 4.0 + 2.0 + 4.0}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("begin", "prefilled", "decode", "end", "told")),
        st.sampled_from(("p0", "d0", "d1")),
        st.sampled_from(("a", "b", "c")),
        st.floats(0.0, 1e6),
        st.floats(0.0, 100.0),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_parts_are_the_whole_whatever_happens_in_which_order(steps):
    world = World()
    tallies, counters = [], {}
    used_j = 0.0
    for what, instance, tenant, amount, wait_s in steps:
        world.time.advance(wait_s)
        if what == "begin":
            tallies.append(world.tally(tenant, tokens=int(amount)))
            tallies[-1].sent(instance)
        elif what == "told":
            first = instance not in counters
            counters[instance] = counters.get(instance, 0.0) + amount
            used_j += 0.0 if first else amount
            world.split.told(instance, "decode", counters[instance])
        elif tallies:
            one = tallies[int(amount) % len(tallies)]
            if what == "prefilled":
                one.prefilled()
            elif what == "decode":
                one.decodes(instance)
            else:
                one.finished()
    told_j = math.fsum(world.split.by_tenant_j.values())
    told_j += math.fsum(world.split.unattributed_j.values())
    assert told_j == pytest.approx(used_j, rel=1e-9, abs=1e-6)
    assert all(joules >= 0.0 for joules in world.split.by_tenant_j.values())
    for one in tallies:
        one.finished()
    assert all(not share.active for share in world.split._shares.values())


def test_at_most_a_hundred_names_and_known_ones_first():
    tenants = Tenants(("paying", "also-paying"))
    made_up = {tenants.named(f"made-up-{i}") for i in range(10 * MOST)}
    assert len(made_up) == MOST - 2 + 1
    assert OTHER in made_up
    assert tenants.named("paying") == "paying"
    assert tenants.named("made-up-0") == "made-up-0"
    assert tenants.named("late") == OTHER


@given(st.text(max_size=200))
def test_a_name_is_short_and_printable_or_other(name):
    told = Tenants().named(name)
    assert told in {name, OTHER, UNNAMED}
    assert len(told) <= LONGEST
    assert told.isprintable()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("team-a", "team-a"),
        ("", UNNAMED),
        (None, UNNAMED),
        (5, OTHER),
        ({"a": 1}, OTHER),
        (["x"], OTHER),
        (True, OTHER),
        ("x" * (LONGEST + 1), OTHER),
        ("x" * 10_000_000, OTHER),
        ("a\nb", OTHER),
        ("\udcff", OTHER),  # bytes of a header that are no text
        ("équipe", "équipe"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_a_body_says_is_a_name_or_other(value, told):
    assert Tenants().named(tenant_in({"user": value}, "user")) == told
    assert tenant_in({"user": value}, None) == ""
