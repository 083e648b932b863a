from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import structlog
from fake_scheduler import FakeEngine

from voltana.actuators import RecordingActuator
from voltana.errors import ConfigError, UnknownNameError
from voltana.policy import InstanceContext
from voltana.ports import viability_of
from voltana.serving.agent import group as group_log
from voltana.serving.agent.building import make_policy
from voltana.serving.agent.group import Group
from voltana.serving.agent.instance_clock import InstanceClock
from voltana.serving.agent.metrics import render
from voltana.serving.agent.sensing import EchoSensor
from voltana.serving.config import parse_config
from voltana.slo import Slo
from voltana.timebase import ManualTime
from voltana.values import Domain, Limit, Load, Role

TABLE = tuple(map(float, range(600, 1411, 15)))
IDLE = Load()


class World:
    """A group on a fake engine and a recorded clock, in time that is turned by hand."""

    def __init__(self, folder, **tables):
        self.time = ManualTime(1000.0)
        tables.setdefault("agent", {})
        tables["agent"] |= {"rings": str(folder / "rings"), "state": str(folder / "state")}
        self.config = parse_config(tables)
        self.actuator = RecordingActuator(TABLE, time=self.time)
        self.engine = FakeEngine(self.config.agent.rings, "decode-0", self.time.now_s)
        self.rng = np.random.default_rng(7)
        self.group = self.make_group()

    def make_group(self):
        return Group(
            self.config,
            instance="decode-0",
            role=None,
            domain=Domain(name="decode-0"),
            clock=InstanceClock(
                lambda _dry: self.actuator, Domain(name="decode-0"), self.time, dry_run=False
            ),
            sensor=EchoSensor(self.actuator.status, TABLE[-1], self.time),
            time=self.time,
        )

    def run(self, iterations, engine=None):
        """Decode iterations, the agent prompt."""
        engine = engine or self.engine
        for _ in range(iterations):
            requests, kv = int(self.rng.integers(1, 30)), int(self.rng.integers(100, 6000))
            load = Load.decode(requests, kv)
            launch_s = engine.launch(load)
            self.group.drain()
            latency_s = (0.004 + 1e-4 * requests + 1e-6 * kv) * self.rng.normal(1.0, 0.02)
            self.time.advance(latency_s)
            engine.finish(load, launch_s, latency_s)
            self.group.drain()

    def clocks(self):
        return [command.clock_mhz for command in self.actuator.commands]


@contextlib.contextmanager
def promising_world(folder, slo, engine, **facts):
    """One whose default policy keeps `slo` for `engine`; `facts` are of its scheduler."""
    world = World(folder, engine=dict(engine), policy={"controller": "voltana"})
    if facts:
        world.engine.close()
        rings = world.config.agent.rings
        world.engine = FakeEngine(rings, "decode-0", world.time.now_s, **facts)
    world.group.scan()
    world.group.set_slo(slo)
    try:
        yield world
    finally:
        world.group.close()
        world.engine.close()


def served(group):
    """The one engine that a group serves."""
    return next(iter(group._served.values()))


@pytest.fixture
def make_world(tmp_path):
    worlds = []

    def make(**tables):
        worlds.append(World(tmp_path, **tables))
        return worlds[-1]

    yield make
    for world in worlds:
        world.group.close()
        world.engine.close()


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


def test_a_users_own_controller_and_predictor_decide(make_world, tmp_path, monkeypatch):
    (tmp_path / "mine_for_agent.py").write_text(
        textwrap.dedent("""
            import numpy as np
            from voltana.values import Decision, Forecast

            class Half:
                def __init__(self, context):
                    self.clock_mhz = context.table_mhz[len(context.table_mhz) // 2]
                    self.predictor = context.predictor
                def decide(self, observation):
                    return Decision(clock_mhz=self.clock_mhz, reason="half way")

            class Constant:
                learned = 0
                def forecast(self, load, clocks_mhz):
                    ones = np.ones_like(clocks_mhz)
                    return Forecast(clocks_mhz=clocks_mhz, mean_s=0.005 * ones, upper_s=ones)
                def learn(self, outcome):
                    Constant.learned += 1
                def snapshot(self):
                    return self
                def to_dict(self):
                    return {}
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    world = make_world(
        policy={"controller": "mine_for_agent:Half", "predictor": "mine_for_agent:Constant"}
    )
    world.group.scan()
    world.run(5)
    assert set(world.clocks()) == {TABLE[len(TABLE) // 2]}
    assert sys.modules["mine_for_agent"].Constant.learned == 5
    assert world.group.figures()["prediction"]["decode"]["mae_ms"] > 0


@pytest.mark.parametrize("reference", ["custom_policy:Creep", "guaranteed_policy:make"])
def test_the_examples_control_an_engine_as_they_control_the_simulator(
    make_world, monkeypatch, reference
):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[4] / "examples"))
    world = make_world(
        policy={"controller": reference},
        engine={"hardware": "a100-sxm4-80gb", "model": "llama-3.1-8b"},
    )
    world.group.scan()
    world.run(200)
    assert world.group.error == ""
    assert len(set(world.clocks())) > 1  # it chose among clocks
    assert sum(world.group.figures()["decisions"].values()) == 200


def test_what_a_policys_own_predictor_learned_outlives_the_agent(make_world, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[4] / "examples"))
    world = make_world(policy={"controller": "guaranteed_policy:make"})
    world.group.scan()
    world.run(300)
    learned = next(iter(world.group._served.values())).predictor.to_dict()
    world.group.close()
    world.group = world.make_group()
    world.group.scan()
    restored = next(iter(world.group._served.values())).predictor.to_dict()
    assert restored == learned
    assert learned != sys.modules["guaranteed_policy"].bound().to_dict()


def test_a_controller_that_raises_loses_its_lease_and_the_agent_says_so(
    make_world, tmp_path, monkeypatch
):
    (tmp_path / "raising_for_agent.py").write_text(
        "class Raises:\n"
        "    levels_mhz = (600.0, 1410.0)\n"
        "    def decide(self, observation):\n"
        "        raise ZeroDivisionError('mine')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    world = make_world(policy={"controller": "raising_for_agent:Raises"})
    world.group.scan()
    world.run(3)
    assert world.clocks() == []
    assert world.group.error == "deciding: ZeroDivisionError: mine"


def test_a_predictor_that_raises_costs_its_own_figures_alone(make_world, tmp_path, monkeypatch):
    (tmp_path / "unpredictable_for_agent.py").write_text(
        "class Raises:\n"
        "    def forecast(self, load, clocks_mhz):\n"
        "        raise ZeroDivisionError('mine')\n"
        "    def learn(self, outcome):\n"
        "        raise ZeroDivisionError('mine, too')\n"
        "    def snapshot(self):\n"
        "        return self\n"
        "    def to_dict(self):\n"
        "        raise ZeroDivisionError('mine as well')\n"
        "    def restore(self, values):\n"
        "        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    world = make_world(policy={"predictor": "unpredictable_for_agent:Raises"})
    world.group.scan()
    world.run(3)
    assert world.group.figures()["iterations"]["decode"] == 3  # measured all the same
    assert world.clocks()[-1] == TABLE[-1]  # nothing can be promised: the fastest
    world.group.save()
    world.group.close()


def test_an_unknown_policy_or_predictor_is_named(make_world):
    world = make_world(policy={"controller": "nonsense"})
    world.group.scan()
    assert not world.group.attached
    assert "unknown policy 'nonsense'. Choose one of: static-max" in world.group.error
    world = make_world(policy={"predictor": "math:pi"})
    world.group.scan()
    assert "is not callable" in world.group.error


def test_the_default_policy_takes_a_predictor_that_has_learned():
    from voltana.predictors.ecopred import EcoPred

    given = EcoPred()
    context = InstanceContext(
        instance="i", role=Role.DECODE, table_mhz=TABLE, slo=Slo(ttft_s=1.0, itl_s=0.1),
        predictor=given,
    )  # fmt: skip
    guarded = make_policy("voltana", context).predictor
    assert guarded.predictor is given
    again = dataclasses.replace(context, predictor=guarded)
    assert make_policy("voltana", again).predictor is guarded


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


def test_a_users_predictor_without_a_snapshot_costs_routers_its_model_and_nothing_else(
    make_world, tmp_path, monkeypatch
):
    (tmp_path / "frozen_for_agent.py").write_text(
        "from voltana.predictors.ecopred import EcoPred\n"
        "class Never(EcoPred):\n"
        "    def snapshot(self):\n"
        "        raise ZeroDivisionError('mine')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    world = make_world(policy={"predictor": "frozen_for_agent:Never"})
    world.group.scan()
    world.run(20)
    with structlog.testing.capture_logs() as logs:
        group_log._log = structlog.get_logger()
        facts = [world.group.facts() for _ in range(50)]
    assert {f.predictor for f in facts} == {None}
    assert all(f.power is not None and f.kv_capacity_tokens == 200_000 for f in facts)
    assert [entry["error"] for entry in logs] == ["ZeroDivisionError('mine')"]


def controllers_memory(group):
    """The KV cache as the controller of the default policy knows it."""
    supervised = next(iter(group._served.values())).control.controller
    return supervised.controller.controller.memory


@pytest.mark.parametrize(
    ("said", "configured", "reserved", "unknown"),
    [
        ({"kv_reserved_tokens": 519}, {}, 519.0, []),
        ({"kv_reserved_tokens": 519}, {"kv_reserved_tokens": 64}, 519.0, []),
        ({"kv_reserved_tokens": None}, {"kv_reserved_tokens": 64}, 64.0, []),
        ({"kv_reserved_tokens": 0}, {}, 0.0, []),
        ({}, {}, 0.0, ["kv_reserved_tokens"]),
        (
            {"kv_capacity_tokens": 0, "kv_reserved_tokens": 1},
            {"kv_capacity_tokens": 7000},
            1.0,
            [],
        ),
        ({"kv_capacity_tokens": 0, "kv_reserved_tokens": 1}, {}, 1.0, ["kv_capacity_tokens"]),
    ],
)
def test_the_controller_knows_what_the_engine_reserves(
    make_world, said, configured, reserved, unknown
):
    """It ran with 0 beside engines, and with the true figure in the simulator alone."""
    world = make_world(engine=configured)
    world.engine.close()
    world.engine = FakeEngine(world.config.agent.rings, "decode-0", world.time.now_s, **said)
    with structlog.testing.capture_logs() as logs:
        group_log._log = structlog.get_logger()
        world.group.scan()
    memory = controllers_memory(world.group)
    capacity = said.get("kv_capacity_tokens", 200_000) or configured.get("kv_capacity_tokens")
    assert memory.reserved_tokens == reserved
    assert memory.capacity_tokens == (capacity or math.inf)
    assert world.group.figures()["unknown"] == unknown
    complaints = [entry for entry in logs if entry["event"].startswith("neither the engine")]
    assert [entry["unknown"] for entry in complaints] == [unknown] * bool(unknown)


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
