"""What is claimed of rings and files that are gone: never less than happened, and nothing twice."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path

import pytest
from agent_steps import iterate, launch, restarted, served_of
from agent_world import promising_world, served
from fake_scheduler import FakeEngine
from killed_agent import ENGINE, LOAD, SLO

from voltana.serving.agent.ring_loop import RingLoop
from voltana.serving.agent.two_slots import SLOT_BYTES, TwoSlots
from voltana.values import Status
from voltana_ring.layout import Change


@pytest.fixture
def world(tmp_path):
    with promising_world(tmp_path, SLO, ENGINE, says_idle=True) as made:
        yield made


def requests(group):
    return served_of(group).guarantee.requests.accounts()["itl"]


def serve(world, names):
    """Requests that join, and end in time."""
    for name in names:
        world.engine.tell(LOAD, (name, world.time.now_s(), Change.JOINED, 0))
        iterate(world)
        world.engine.tell(LOAD, (name, world.time.now_s(), Change.ENDED, 3))
        iterate(world)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def new_engine(world):
    world.engine.close()
    world.engine = FakeEngine(
        world.config.agent.rings, "decode-0", world.time.now_s, says_idle=True
    )


class FullDisk:
    """Takes the small words of intent, which lie in blocks that the file has, and nothing else."""

    def __init__(self, monkeypatch):
        self.full = True
        put = TwoSlots._put

        def refusing(slots, raw, at):
            if self.full and at >= 4096:
                raise OSError(errno.ENOSPC, "No space left on device")
            put(slots, raw, at)

        monkeypatch.setattr(TwoSlots, "_put", refusing)


def test_all_that_a_full_disk_did_not_take_is_claimed_after_a_kill(world, monkeypatch):
    for _ in range(5):
        iterate(world)
    disk = FullDisk(monkeypatch)
    for number in range(40):
        iterate(world, 0.1 if number % 13 == 7 else 0.005)
    before = served(world.group).guarantee
    violated = before.account()["violated"]
    assert violated > 0
    disk.full = False
    again = restarted(world, "voltana")
    after = served_of(again).guarantee
    assert after.certified >= before.certified
    assert after.account()["violated"] + sum(after.unlabelled().values()) >= violated
    again.close()


@pytest.mark.parametrize("agent_again", [False, True])
def test_an_engine_that_comes_back_loses_only_what_was_under_way(world, agent_again):
    serve(world, range(1, 21))
    assert requests(world.group)["lost"] == 0
    for _ in range(3):
        new_engine(world)
        world.group.scan()
        serve(world, range(100, 103))
        assert requests(world.group)["lost"] == 0
        if agent_again:
            again = restarted(world, "voltana")
            world.group.close()
            world.group = again
            assert requests(again)["lost"] == 0
    world.engine.tell(LOAD, (7, world.time.now_s(), Change.JOINED, 0))
    iterate(world)
    new_engine(world)
    world.group.scan()
    assert requests(world.group)["lost"] == 1


def test_requests_promised_before_a_kill_are_lost_with_their_engine(world):
    """Nothing of them had been written when the agent was killed."""
    iterate(world)
    told = [(name, world.time.now_s(), Change.JOINED, 0) for name in range(1, 9)]
    world.engine.tell(LOAD, *told)
    found = served(world.group)
    found.ring_loop.take(found.reader.drain())
    promised = found.guarantee.requests.accounts()["itl"]["promised"]
    assert promised == 8
    new_engine(world)
    again = restarted(world, "voltana")
    seen = requests(again)
    assert (seen["promised"], seen["lost"]) == (promised, promised)
    again.close()


def test_a_ring_that_cannot_be_started_leaves_no_file_open(world, monkeypatch):
    iterate(world)
    world.group.close()
    world.group = world.make_group()

    def fails(*_):
        raise RuntimeError("a user's code")

    start = RingLoop.start
    monkeypatch.setattr(RingLoop, "start", fails)
    before = open_files()
    for _ in range(20):
        world.group.scan()
    assert open_files() == before
    monkeypatch.setattr(RingLoop, "start", start)
    world.time.advance(60.0)
    world.group.scan()
    assert served(world.group)


DAMAGE = {
    "a ring without a name": lambda kept: kept["ring"].update(identity=None),
    "a budget that is no number": lambda kept: kept["open"][0][2].update(budget_s=math.nan),
    "a mean that is no number": lambda kept: kept["open"][0][2].update(
        mean_s=[math.nan] * len(kept["open"][0][2]["mean_s"])
    ),
    "a margin that is no number": lambda kept: kept["open"][0][2]["parts"][0].__setitem__(
        2, math.nan
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_kept_decisions_that_are_damaged_hide_no_violation(world, damage):
    for _ in range(3):
        iterate(world)
    launch_s, decision = launch(world)
    assert decision.status is Status.CERTIFIED
    slots = served(world.group).guarantee._slots
    kept = json.loads(slots.read())
    DAMAGE[damage](kept)
    for _ in range(2):
        slots.write(json.dumps(kept).encode())
    again = restarted(world, "voltana")
    world.time.advance(0.1)
    world.engine.finish(LOAD, launch_s, 0.1)
    again.drain()
    found = served_of(again).guarantee
    claimed = found.account().get("violated", 0.0) + sum(found.unlabelled().values())
    assert claimed >= 1 or found.restored.startswith("damaged")
    assert served_of(again).ring_loop.error == ""
    again.close()


def test_slots_lie_behind_the_words_of_intent():
    """What `FullDisk` relies on."""
    assert SLOT_BYTES > 4096
