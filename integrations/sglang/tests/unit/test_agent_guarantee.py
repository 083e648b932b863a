"""The account beside an engine: every certified decision ends as a label or as lost.

`agent_world.World` is a group on a fake engine.
"""

from __future__ import annotations

import pytest
from agent_steps import account, finish, iterate, launch
from agent_world import World, promising_world, served
from fake_scheduler import FakeEngine
from killed_agent import ENGINE, SLO

from voltana.serving.agent.metrics import render
from voltana.slo import Slo
from voltana.values import Load, Status
from voltana_ring.layout import Kind


@pytest.fixture
def world(tmp_path):
    with promising_world(tmp_path, SLO, ENGINE) as made:
        yield made


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
