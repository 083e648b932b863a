"""A group beside a fake engine: what it finds, decides, keeps to, and lets be changed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import structlog
from agent_world import TABLE, worlds_in
from fake_scheduler import FakeEngine

from voltana.errors import ConfigError, UnknownNameError
from voltana.ports import viability_of
from voltana.serving.agent import group as group_log
from voltana.serving.agent.metrics import render
from voltana.slo import Slo
from voltana.values import Limit, Load

IDLE = Load()


@pytest.fixture
def make_world(tmp_path):
    with worlds_in(tmp_path) as make:
        yield make


@pytest.fixture
def world(make_world):
    made = make_world()
    made.group.scan()
    return made


def test_an_engine_is_found_and_its_iterations_are_learned(world):
    assert world.group.attached
    assert world.group.role == "decode"
    world.run(400)
    figures = world.group.figures()
    assert figures["iterations"]["decode"] == 400
    prediction = figures["prediction"]["decode"]
    assert prediction["mae_ms"] < 0.5 * prediction["mean_predictor_mae_ms"]
    assert sum(figures["decisions"].values()) == 400
    assert figures["records_lost"] == figures["records_torn"] == 0
    assert figures["attainment"] == 1.0
    assert world.clocks()[0] == TABLE[-1]  # nothing known: the fastest


def test_viability_is_counted_as_in_the_simulator_over_all_ranks(world):
    second = FakeEngine(world.config.agent.rings, "decode-0", world.time.now_s, rank="@dp1.pp0.tp1")
    world.group.scan()
    world.run(60)
    world.run(60, second)
    seen = world.group.figures()["viability"]
    kept = [viability_of(s.control.controller) for s in world.group._served.values()]
    assert (seen["steps"], seen["outside"]) == (120, sum(one.outside for one in kept))
    assert seen["windows"] == sum(one.windows for one in kept)
    text = render({"instance": "decode-0", "viability": seen})[0].decode()
    assert 'voltana_agent_decode_steps_total{backend="decode-0"} 120.0' in text
    for name in ("envelope_windows", "envelope_broken", "viability_outside"):
        assert f"voltana_agent_{name}_total{{" in text
    second.close()


def test_a_policy_that_knows_no_envelope_reports_none(world):
    world.group.set_policy("static-max")
    world.run(3)
    seen = world.group.figures()["viability"]
    assert seen is None
    text = render({"instance": "decode-0", "viability": seen})[0].decode()
    assert "envelope" not in text


def test_a_change_of_the_slo_takes_effect_and_what_was_learned_stays(world):
    world.run(300)
    world.group.set_slo(Slo(ttft_s=1.0, itl_s=0.2))
    world.run(30)
    loose = world.clocks()[-1]
    world.group.set_slo(Slo(ttft_s=1.0, itl_s=0.0001))
    world.run(5)
    assert loose < 900.0
    assert world.clocks()[-1] == TABLE[-1]
    assert world.group.figures()["decisions"]["saturated"] >= 5
    assert world.group.figures()["prediction"]["decode"]["labels"] == 335
    assert world.group.budget_s() == 0.0001


def test_levels_and_limits_hold_whatever_the_policy_wants(world):
    world.run(300)
    world.group.set_slo(Slo(ttft_s=1.0, itl_s=0.2))
    world.group.set_levels("above:1000")
    before = len(world.clocks())
    world.run(20)
    assert min(world.clocks()[before:]) >= 1000.0
    assert world.group.levels_mhz()[0] == 1005.0
    world.group.set_limit(
        Limit(source="test", max_mhz=1100.0, expires_at_s=world.time.now_s() + 0.05)
    )
    world.group.set_slo(Slo(ttft_s=1.0, itl_s=0.0001))  # wants the fastest
    world.run(2)
    assert world.clocks()[-1] == 1095.0
    world.time.advance(0.1)
    world.run(2)
    assert world.clocks()[-1] == TABLE[-1]
    with pytest.raises(ConfigError, match="600-1410 MHz"):
        world.group.set_levels("above:9000")
    assert world.group.settings.levels == "above:1000"
    world.group.set_levels(None)
    assert world.group.levels_mhz()[0] < 1000.0


def test_the_policy_can_be_changed_and_an_unknown_one_changes_nothing(world):
    world.run(10)
    world.group.set_policy("static-low")
    world.run(3)
    assert world.clocks()[-1] == 1005.0
    with pytest.raises(UnknownNameError, match="nonsense"):
        world.group.set_policy("nonsense")
    assert world.group.settings.policy == "static-low"
    world.run(3)


def test_a_policy_that_knows_levels_plans_on_the_configured_ones(world):
    world.run(10)
    world.group.set_levels("above:1000")
    (served,) = world.group._served.values()
    assert served.control.controller.levels_mhz == world.group.levels_mhz()
    assert min(world.group.levels_mhz()) == 1005.0


def test_fixed_clocks_may_be_chosen_and_those_of_hindsight_may_not(world):
    world.run(10)
    world.group.set_policy("fixed:1200/900")
    world.run(3)
    assert world.clocks()[-1] == 900.0
    with pytest.raises(ConfigError, match=r"Take 900 or 915 MHz\."):
        world.group.set_policy("fixed:1200/901")
    with pytest.raises(ConfigError, match="searched for one recorded trace"):
        world.group.set_policy("best-fixed")
    assert world.group.settings.policy == "fixed:1200/900"
    world.run(3)


def test_idling_renews_the_lease_by_control_steps(world):
    world.run(5)
    world.engine.idle()
    world.group.drain()
    before = len(world.actuator.commands)
    for _ in range(50):
        world.time.advance(0.2)
        world.group.tick(0.2)
        assert world.actuator.status().health.value == "ok"
    assert len(world.actuator.commands) > before + 5
    assert world.group.idle()
    assert world.group.state().running_requests == 0


def test_an_iteration_that_takes_long_renews_the_lease_but_not_for_ever(world):
    world.engine.launch(Load.decode(3, 100))
    world.group.drain()
    for _ in range(100):
        world.time.advance(0.2)
        world.group.tick(0.2)
        assert world.actuator.status().health.value == "ok"
    for _ in range(100):
        world.time.advance(0.2)
        world.group.tick(0.2)
    assert "ran out" in world.actuator.status().error  # the engine hangs: defaults are back


def test_an_agent_that_fell_behind_decides_only_for_what_runs_now(world):
    for number in range(50):
        load = Load.decode(number + 1, 100)
        world.engine.finish(load, world.engine.launch(load), 0.004)
    world.group.drain()
    assert sum(world.group.figures()["decisions"].values()) == 1
    assert world.group.figures()["iterations"]["decode"] == 50


def test_several_ranks_share_a_clock_and_their_loads_add_up(world):
    second = FakeEngine(world.config.agent.rings, "decode-0", world.time.now_s, rank="@dp1.pp0.tp1")
    world.group.scan()
    world.run(200)
    world.run(200, second)
    world.engine.launch(Load.decode(2, 50))
    second.launch(Load.decode(3, 70))
    world.group.drain()
    state = world.group.state()
    assert (state.running_requests, state.kv_tokens) == (5, 120)
    assert world.group.facts().predictor is None  # it would speak of one of them only
    assert world.group.figures()["engines"] == 2
    second.close()
    world.group.scan()
    assert world.group.figures()["engines"] == 1
    assert world.group.facts().predictor is not None


def test_it_tells_what_a_batch_of_prompts_computes_and_since_when(world):
    def told():
        world.group.drain()
        state = world.group.state()
        return state.queued_tokens, state.computing_tokens, state.computing_for_s

    prompts, mixed = Load.prefill([(600, 0), (300, 0)]), Load(prefill_tokens=200, decode_requests=3)
    number = world.engine.launch(prompts)
    assert told() == (900, 900, 0.0)
    world.engine.finish(prompts, number, 0.05)
    number = world.engine.launch(prompts)
    world.group.drain()
    world.engine.finish(prompts, number, 0.05)
    world.group.drain()
    world.time.advance(3.0)
    world.group.tick(0.1)  # nothing was heard of it since
    assert told()[:2] == (0, 0)
    world.engine.launch(mixed)
    assert told() == (200, 0, 0.0)  # how much of it are prompts is not known
    world.engine.idle()
    assert told() == (0, 0, 0.0)
    second = FakeEngine(world.config.agent.rings, "decode-0", world.time.now_s, rank="@dp1.pp0.tp1")
    world.group.scan()
    world.engine.launch(prompts)
    second.launch(prompts)
    assert told() == (1800, 0, 0.0)  # the batches of ranks end one by one
    second.close()


def test_what_was_learned_outlives_engine_and_agent(world):
    world.run(300)
    load, clocks = Load.decode(20, 3000), np.array([1410.0])
    before = world.group.facts().predictor.forecast(load, clocks).mean_s
    world.engine.close()
    world.group.scan()
    assert not world.group.attached
    assert world.group.state().running_requests == 0
    world.engine = FakeEngine(world.config.agent.rings, "decode-0", world.time.now_s)
    world.group = world.make_group()
    world.group.scan()
    after = world.group.facts().predictor.forecast(load, clocks)
    assert after.mean_s == pytest.approx(before, rel=0.05)
    assert after.upper_s[0] < math.inf


def test_what_waits_reaches_the_controller_with_its_deadlines(world):
    world.group.set_policy("voltana")
    seen = []
    served = next(iter(world.group._served.values()))
    decide = served.control.controller.decide
    served.control.controller.decide = lambda o: (seen.append(o), decide(o))[1]
    now_s = world.time.now_s()
    entries = (now_s - 0.3, 100, 0, now_s - 0.1, 5000, 0)
    world.engine.launch(Load.prefill([(10, 0)]), entries=entries, oldest_s=now_s - 0.4)
    world.group.drain()
    (observation,) = seen
    assert (observation.queue.requests, observation.queue.tokens) == (2, 5100)
    assert observation.queue.oldest_wait_s == pytest.approx(0.4)
    deadlines = [bucket.deadline_s - now_s for bucket in observation.queue.deadlines]
    assert deadlines == pytest.approx([0.3, 0.5])


def test_a_ring_that_cannot_be_read_hides_no_other_and_is_said_once(make_world):
    """Such as that of an older version, left behind by an engine that was killed."""
    world = make_world()
    rings = world.config.agent.rings
    (rings / "decode-0@dp0.pp0.tp0.old.ring").write_bytes(b"VOLTRING" + b"\xff" * 8192)
    (rings / "decode-0@dp0.ring").write_bytes(b"not a ring")
    with structlog.testing.capture_logs() as logs:
        group_log._log = structlog.get_logger()
        for _ in range(3):
            world.group.scan()
    assert world.group.attached
    world.run(3)
    assert world.group.figures()["iterations"]["decode"] == 3
    assert len([entry for entry in logs if entry["event"] == "an engine cannot be controlled"]) == 2


def test_what_ran_and_idled_fills_the_time(world):
    loop = next(iter(world.group._served.values())).ring_loop
    loop.take_exposures(world.time.now_s(), 900.0)
    began_s = world.time.now_s()
    world.run(50)
    world.engine.idle()
    world.group.drain()
    world.time.advance(1.5)
    world.run(10)
    world.time.advance(0.25)
    exposures = loop.take_exposures(world.time.now_s(), 900.0)
    idle_s = [e.duration_s for e in exposures if e.load == IDLE]
    assert idle_s == pytest.approx([1.5, 0.25])
    elapsed_s = world.time.now_s() - began_s
    assert sum(e.duration_s for e in exposures) == pytest.approx(elapsed_s)
    assert len(exposures) == 62
    world.engine.launch(Load.decode(3, 100))
    world.group.drain()
    world.time.advance(5.0)
    assert loop.take_exposures(world.time.now_s(), 900.0) == ()  # what runs belongs to the next
