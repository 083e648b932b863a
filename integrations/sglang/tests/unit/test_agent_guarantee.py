"""The account beside an engine: every certified decision ends as a label or as lost, kept by kills.

`test_agent_group.World` is a group on a fake engine.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import pytest
from fake_scheduler import FakeEngine
from killed_agent import ENGINE, LOAD, SLO, survive
from test_agent_group import World, promising_world, served

from voltana.serving.agent.guarantee import Guarantee, guarantee_path
from voltana.serving.agent.metrics import render
from voltana.serving.agent.two_slots import DamagedError, HeldError, TwoSlots
from voltana.slo import Slo
from voltana.values import Load, Status
from voltana_ring.layout import Kind


@pytest.fixture
def world(tmp_path):
    with promising_world(tmp_path, SLO, ENGINE) as made:
        yield made


def launch(world, load=LOAD):
    launch_s = world.engine.launch(load)
    world.group.drain()
    ((_, found),) = [
        x for x in served(world.group).ring_loop.open if x[0] == world.engine.iteration
    ]
    return launch_s, found.decision


def finish(world, launch_s, latency_s=0.005, load=LOAD):
    world.time.advance(max(launch_s + latency_s - world.time.now_s(), 0.0))
    world.engine.finish(load, launch_s, latency_s)
    world.group.drain()


def iterate(world, latency_s=0.005):
    """One iteration from launch to result: its decision."""
    launch_s, decision = launch(world)
    finish(world, launch_s, latency_s)
    return decision


def account(world):
    return served(world.group).guarantee.account()


def test_ticks_renew_the_lease_of_a_running_iteration_and_decide_nothing(world):
    control = served(world.group).control
    decide, seen = control.controller.decide, []
    control.controller.decide = lambda o: (seen.append(o), decide(o))[1]
    now_s = world.time.now_s()
    world.engine.launch(Load.prefill([(500, 0)]), oldest_s=now_s, entries=(now_s, 100, 0))
    world.group.drain()
    commands = len(world.actuator.commands)
    for _ in range(20):
        world.time.advance(0.2)
        world.group.tick(0.2)
    assert len(seen) == 1
    assert len(world.actuator.commands) > commands + 10


def test_late_prefill_batches_are_scored_late_whatever_ticks(tmp_path):
    world = World(
        tmp_path, engine=dict(ENGINE), policy={"controller": "voltana"},
    )  # fmt: skip
    world.engine.close()
    world.engine = FakeEngine(
        world.config.agent.rings, "decode-0", world.time.now_s, role="prefill"
    )
    world.group.scan()
    controller = served(world.group).control.controller
    while not hasattr(controller, "reserve"):
        controller = controller.controller
    reserve = controller.reserve
    load = Load.prefill([(500, 0)])
    for _ in range(60):
        now_s = world.time.now_s()
        world.engine.launch(load, oldest_s=now_s)
        world.group.drain()
        for _ in range(10):
            world.time.advance(0.2)
            world.group.tick(0.2)
        # Ready two seconds later, of which the device knows little: the model goes on promising.
        world.engine._write(Kind.FINISHED, load, now_s, now_s + 2.0, 0.05)
        world.group.drain()
        world.engine.idle()
        world.group.drain()
        world.time.advance(0.05)
    assert reserve.missed >= 10
    assert reserve.missed == reserve.requests
    world.group.close()
    world.engine.close()


def test_decode_is_scored_by_the_gap_between_two_tokens(world):
    """Without overlap the host works between iterations, and the token waits for it."""
    for _ in range(3):
        decision = iterate(world)
    assert decision.status is Status.CERTIFIED
    world.time.advance(0.045)  # the host is at work
    decision = iterate(world)
    assert account(world)["violated"] == 1.0
    assert served(world.group).ring_loop.account.latency_s(100) == pytest.approx(0.05)


def test_a_token_after_idling_has_waited_for_none(world):
    iterate(world)
    world.engine.idle()
    world.group.drain()
    world.time.advance(3.0)
    iterate(world)
    assert account(world)["missed"] == 0.0
    assert served(world.group).ring_loop.account.latency_s(100) == pytest.approx(0.005)


def test_an_engine_without_an_idle_hook_is_idle_after_a_long_silence(world):
    iterate(world)
    world.time.advance(3.0)
    iterate(world)
    assert account(world)["missed"] == 0.0


CHANGES = {
    "slo": lambda group: group.set_slo(Slo(ttft_s=1.0, itl_s=0.05)),
    "levels": lambda group: group.set_levels("above:1000"),
    "policy that learns nothing": lambda group: group.set_policy("static-max"),
    "policy that learns": lambda group: group.set_policy("voltana-mdp"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_label_in_flight_is_scored_whatever_is_changed(world, change):
    launch_s, decision = launch(world)
    assert decision.status is Status.CERTIFIED
    CHANGES[change](world.group)
    finish(world, launch_s, 0.1)
    seen = account(world)
    assert (seen["certified"], seen["missed"], seen["violated"]) == (1.0, 1.0, 1.0)
    assert served(world.group).guarantee.unlabelled() == {}


def test_what_a_policy_promised_stays_in_the_account_when_another_takes_over(world):
    iterate(world, 0.1)
    for change in CHANGES.values():
        change(world.group)
        assert account(world)["violated"] == 1.0


def test_an_unusable_latency_is_counted(world):
    iterate(world, 0.0)
    assert served(world.group).guarantee.unlabelled() == {"unusable latency": 1}


def test_lost_records_are_counted(world):
    launch(world)  # its end is overwritten before it is read
    iterate(world)
    assert served(world.group).guarantee.unlabelled() == {"record lost": 1}
    assert account(world)["certified"] == 1.0


def test_a_result_that_comes_after_an_idle_record_is_scored(world):
    launch_s, _ = launch(world)
    world.engine.idle()
    world.group.drain()
    finish(world, launch_s, 0.1)
    assert account(world)["violated"] == 1.0


def test_an_engine_that_ends_leaves_no_decision_uncounted(world):
    guarantee = served(world.group).guarantee
    launch(world)
    world.engine.close()
    world.group.scan()
    assert guarantee.unlabelled() == {"engine gone": 1}
    world.engine = FakeEngine(world.config.agent.rings, "decode-0", world.time.now_s)
    world.group.scan()
    assert served(world.group).guarantee.unlabelled() == {"engine gone": 1}


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


def served_of(group):
    return next(iter(group._served.values()))


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


def margin(group):
    return served_of(group).predictor.margin(LOAD).parts[0].quantile


def kept_file(world):
    (path,) = world.config.agent.state.glob("*.guarantee")
    return path


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


def test_the_status_has_every_certified_decision_once(world):
    for number in range(40):
        iterate(world, 0.0 if number == 20 else 0.005)
    launch(world)  # its end is lost
    iterate(world, 0.1)
    _, running = launch(world)
    seen = world.group.figures()["guarantee"]
    in_flight = int(running.status is Status.CERTIFIED)
    assert seen["decided"] == 42 + in_flight
    assert seen["unlabelled"] == {"unusable latency": 1, "record lost": 1}
    assert seen["lost"] == 2
    assert seen["in_flight"] == in_flight
    scored = seen["certified"] + seen["elsewhere"] + seen["unsettled"]
    assert scored + seen["lost"] + seen["in_flight"] == seen["decided"]
    assert (seen["missed"], seen["violated"]) == (1.0, 1.0)
    text = render({"instance": "decode-0", "guarantee": seen})[0].decode()
    for line in (
        'guarantee_decided_total{backend="decode-0"} 4',
        'guarantee_missed_total{backend="decode-0"} 1.0',
        'guarantee_unlabelled_total{backend="decode-0",cause="record lost"} 1.0',
        'guarantee_in_flight{backend="decode-0"}',
        "guarantee_bound{",
    ):
        assert "voltana_agent_" + line in text


def test_the_accounts_of_several_ranks_add_up(world):
    second = FakeEngine(world.config.agent.rings, "decode-0", world.time.now_s, rank="@dp1.pp0.tp1")
    world.group.scan()
    world.run(20)
    world.run(20, second)
    seen = world.group.figures()["guarantee"]
    parts = [s.guarantee.figures(s.ring_loop.open) for s in world.group._served.values()]
    assert len(parts) == 2
    assert seen["decided"] == sum(part["decided"] for part in parts) > 0
    assert seen["bound"] == sum(part["bound"] for part in parts)
    second.close()


def test_a_damaged_account_is_named_in_the_status(world):
    assert world.group.doubt == ""
    served(world.group).guarantee.restored = "damaged: x"
    assert world.group.doubt == "the account is damaged: x"
    assert world.group.figures()["guarantee"]["state"] == "damaged: x"


def restarted(world, policy):
    """The group of an agent that was killed and comes back with another policy."""
    made = world.make_group()
    made.settings = dataclasses.replace(made.settings, policy=policy, slo=SLO)
    made.scan()
    return made


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
