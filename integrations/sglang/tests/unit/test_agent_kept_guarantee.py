"""The file that keeps a guarantee: restarts, other stacks, damage, failing disks, two agents."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from agent_steps import account, iterate, kept_file, launch, margin, restarted, served_of
from agent_world import promising_world, served
from fake_scheduler import FakeEngine
from killed_agent import ENGINE, LOAD, SLO, survive

from voltana.serving.agent.guarantee import Guarantee, guarantee_path
from voltana.serving.agent.two_slots import DamagedError, HeldError, TwoSlots
from voltana.values import Status


@pytest.fixture
def world(tmp_path):
    with promising_world(tmp_path, SLO, ENGINE) as made:
        yield made


def test_a_restart_goes_on_with_every_open_decision(world):
    for _ in range(20):
        iterate(world)
    iterate(world, 0.1)
    launch_s, _ = launch(world)
    margins = served(world.group).predictor.to_dict()
    # As if it were killed: nothing is closed, nothing is saved.
    world.time.advance(0.2)
    world.engine.finish(LOAD, launch_s, 0.2)  # while there is no agent
    again = world.make_group()
    again.scan()
    assert served_of(again).predictor.to_dict() == margins
    again.drain()
    seen = served_of(again).guarantee.account()
    assert (seen["certified"], seen["violated"]) == (22.0, 2.0)
    assert served_of(again).guarantee.unlabelled() == {}
    again.close()


def test_another_ring_has_no_label_for_what_was_open(world):
    launch(world)
    world.engine.close()
    world.engine = FakeEngine(world.config.agent.rings, "decode-0", world.time.now_s)
    again = world.make_group()
    again.scan()
    assert served_of(again).guarantee.unlabelled() == {"restart": 1}
    again.close()


@pytest.mark.parametrize("other", [{"model": "other"}, {"tp_size": 2}, {"version": "0.5.99"}])
def test_margins_are_not_those_of_another_stack(world, other):
    for _ in range(30):
        iterate(world)
    learned = margin(world.group)
    world.engine.close()
    world.group.scan()
    world.engine = FakeEngine(world.config.agent.rings, "decode-0", world.time.now_s, **other)
    world.group.scan()
    assert margin(world.group) == 0.15 != learned
    world.engine.close()
    world.group.scan()
    world.engine = FakeEngine(world.config.agent.rings, "decode-0", world.time.now_s)
    world.group.scan()
    assert margin(world.group) == learned


DAMAGE = {
    "truncated": lambda raw: raw[:5000],
    "noise": lambda raw: bytes(byte ^ 0x55 for byte in raw),
    "emptied": lambda raw: b"\0" * len(raw),
    "cut to a few bytes": lambda raw: raw[:7],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_set_aside_and_said_and_certificates_go_on(world, damage):
    for _ in range(3):
        iterate(world)
    world.group.close()
    path = kept_file(world)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    world.group = world.make_group()
    world.group.scan()
    world.group.set_slo(SLO)
    assert served(world.group).guarantee.restored.startswith("damaged")
    assert list(world.config.agent.state.glob("*.damaged"))
    _, decision = launch(world)
    assert decision.status is Status.CERTIFIED


NANS = {
    "margin": lambda v: v["state"]["groups"]["decode"].update(quantile=math.nan),
    "carried": lambda v: v.update(carried={"missed": math.nan}),
    "certified": lambda v: v.update(certified=-1),
    "open": lambda v: v.update(open=[[3, True, {"status": "certified"}]]),
    "causes": lambda v: v.update(own_causes={"restart": math.inf}),
    "ring": lambda v: v.pop("ring"),
    "a list": lambda v: [v],
}


@pytest.mark.parametrize("where", NANS)
def test_a_file_with_nonsense_in_it_saturates_nothing(world, where):
    for _ in range(3):
        iterate(world)
    world.group.close()
    slots = TwoSlots(kept_file(world))
    values = json.loads(slots.read())
    values = NANS[where](values) if where == "a list" else (NANS[where](values), values)[1]
    for _ in range(2):
        slots.write(json.dumps(values).encode())
    slots.close()
    world.group = world.make_group()
    world.group.scan()
    world.group.set_slo(SLO)
    _, decision = launch(world)
    assert decision.status is Status.CERTIFIED
    assert margin(world.group) == 0.15
    # Its account stays, where it can be read at all.
    assert account(world).get("certified", 0.0) in {0.0, 3.0}


def test_two_slots_give_back_the_newest_whole_write(tmp_path):
    slots = TwoSlots(tmp_path / "deep" / "a.guarantee")
    assert slots.read() is None
    assert slots.intent() is None
    for number in range(5):
        slots.write(b"%d" % number)
        slots.intend(number)
        assert (slots.read(), slots.intent()) == (b"%d" % number, number)
    raw = bytearray(slots.path.read_bytes())
    at = raw.rindex(b"4")
    raw[at : at + 1] = b"9"  # a write that was cut short
    slots.path.write_bytes(raw)
    assert TwoSlots(slots.path).read() == b"3"
    slots.path.write_bytes(b"x" * 100)
    with pytest.raises(DamagedError, match="no state of a guarantee"):
        TwoSlots(slots.path).read()
    with pytest.raises(OSError, match="more than a slot holds"):
        slots.write(b"x" * (1 << 20))


def test_a_disk_that_fails_ends_nothing(tmp_path, monkeypatch, world):
    slots = served(world.group).guarantee._slots
    monkeypatch.setattr(slots, "write", lambda text: (_ for _ in ()).throw(OSError("full")))
    iterate(world)
    assert account(world)["certified"] == 1.0


def test_guarantees_of_two_stacks_lie_in_two_files(tmp_path, world):
    from voltana.serving.agent.building import stack_of

    stack = stack_of(world.config, served(world.group).reader.info)
    paths = {
        guarantee_path(tmp_path, "d", changed)
        for changed in (
            stack, stack.model_copy(update={"model": "x"}),
            stack.model_copy(update={"tensor_parallel": 4}),
            stack.model_copy(update={"engine_version": "x"}),
        )
    }  # fmt: skip
    assert len(paths) == 4


@pytest.mark.parametrize(("kills", "seed"), [(8, 8), pytest.param(10, 10, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_no_violation_unclaimed(tmp_path, kills, seed):
    """`make kills` does so 200 times."""
    found = survive(tmp_path, kills, seed)
    assert found.problems() == []
    assert found.decided > 2 * kills
    assert found.promised > kills


def test_a_guarantee_without_a_file_keeps_nothing():
    guarantee = Guarantee(None)
    guarantee.intend()
    guarantee.sync()
    guarantee.close()
    assert (guarantee.account(), guarantee.unlabelled(), guarantee.restored) == ({}, {}, "new")


def test_an_account_outlives_a_policy_that_promises_nothing(world):
    for _ in range(20):
        iterate(world)
    iterate(world, 0.1)
    iterate(world, 0.0)
    before, lost, margins = (
        account(world),
        served(world.group).guarantee.unlabelled(),
        margin(world.group),
    )
    fixed = restarted(world, "static-max")
    assert served_of(fixed).guarantee.account() == before
    launch_s = world.engine.launch(LOAD)
    fixed.drain()
    world.engine.finish(LOAD, launch_s, 0.005)
    fixed.drain()
    again = restarted(world, "voltana")
    assert served_of(again).guarantee.account() == before
    assert served_of(again).guarantee.unlabelled() == lost
    assert margin(again) == margins
    for group in (fixed, again):
        group.close()


def test_a_decision_whose_policy_is_gone_is_counted_after_a_restart(world):
    _, decision = launch(world)
    assert decision.status is Status.CERTIFIED
    fixed = restarted(world, "static-max")
    assert served_of(fixed).guarantee.unlabelled() == {"restart": 1}
    fixed.close()


def test_another_statement_begins_anew_and_keeps_the_account(world):
    for _ in range(5):
        iterate(world)
    before = account(world)
    world.group.close()
    slots = TwoSlots(kept_file(world))
    values = json.loads(slots.read())
    values["state"]["statement"]["delay"] = 8
    slots.write(json.dumps(values).encode())
    slots.close()
    again = restarted(world, "voltana")
    assert margin(again) == 0.15
    assert served_of(again).guarantee.account()["certified"] == before["certified"]
    again.close()


def other_process(path):
    """Take a file in a process of its own; what it said."""
    program = (
        "import sys, pathlib\n"
        "from voltana.serving.agent.two_slots import HeldError, TwoSlots\n"
        "try:\n    TwoSlots(pathlib.Path(sys.argv[1]))\n    print('taken')\n"
        "except HeldError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_two_agents_do_not_keep_one_account(world):
    iterate(world)
    assert "is kept by another agent" in other_process(kept_file(world))
    world.group.close()
    assert other_process(kept_file(world)) == "taken\n"


def test_an_engine_whose_account_another_agent_keeps_is_refused_until_that_ends(world, monkeypatch):
    from voltana.serving.agent import guarantee as module

    iterate(world)
    world.group.close()
    world.group = world.make_group()
    with monkeypatch.context() as patch:
        patch.setattr(module, "TwoSlots", lambda path: (_ for _ in ()).throw(HeldError("held")))
        world.group.scan()
        assert not world.group.attached
        assert world.group.error == "held"
    world.group.scan()
    assert account(world)["certified"] == 1.0


UNUSABLE_PLACES = {
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a folder that is a file": lambda path: (
        path.unlink(), path.parent.rename(f"{path.parent}.old"), path.parent.write_text("")
    ),
    "a folder where it is set aside to": lambda path: (
        path.write_bytes(b"x" * 9000),
        (path.with_suffix(".guarantee.damaged") / "x").mkdir(parents=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", UNUSABLE_PLACES)
def test_where_nothing_can_be_kept_everything_goes_on_and_says_so(world, place):
    iterate(world)
    path = kept_file(world)
    world.group.close()
    UNUSABLE_PLACES[place](path)
    world.group = world.make_group()
    world.group.scan()
    world.group.set_slo(SLO)
    assert iterate(world).status is Status.CERTIFIED
    assert served(world.group).guarantee.certified == 1
    seen = account(world)
    assert seen["certified"] + seen["elsewhere"] + seen["unsettled"] == 1.0
    assert "cannot be kept" in world.group.doubt


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"ring": 1e999}', b"\xff\xfe", b"null", b""])
def test_whatever_a_file_has_in_it_is_set_aside(world, text):
    iterate(world)
    world.group.close()
    slots = TwoSlots(kept_file(world))
    for _ in range(2):
        slots.write(text)
    slots.close()
    world.group = world.make_group()
    world.group.scan()
    world.group.set_slo(SLO)
    assert served(world.group).guarantee.restored.startswith("damaged")
    assert iterate(world).status is Status.CERTIFIED


def test_a_disk_that_fails_before_a_decision_ends_nothing(world, monkeypatch):
    slots = served(world.group).guarantee._slots
    monkeypatch.setattr(slots, "intend", lambda number: (_ for _ in ()).throw(OSError("full")))
    iterate(world)
    assert account(world)["certified"] == 1.0
