"""What a group is given: users' own policies and predictors, the examples, models, and failures."""

from __future__ import annotations

import dataclasses
import math
import sys
import textwrap
from pathlib import Path

import pytest
import structlog
from agent_world import TABLE, worlds_in
from fake_scheduler import FakeEngine

from voltana.cluster.context import NO_LIMIT
from voltana.policy import InstanceContext
from voltana.serving.agent import group as group_log
from voltana.serving.agent.building import make_policy
from voltana.slo import Slo
from voltana.values import Role


@pytest.fixture
def make_world(tmp_path):
    with worlds_in(tmp_path) as make:
        yield make


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
    assert all(f.power is not None and f.limits.kv_capacity_tokens == 200_000 for f in facts)
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
        (
            {"kv_reserved_tokens": 0, "max_running_requests": 0},
            {"max_running_requests": 48},
            0.0,
            [],
        ),
        (
            {"kv_reserved_tokens": 0, "max_running_requests": 0},
            {},
            0.0,
            ["max_running_requests"],
        ),
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
    runs = said.get("max_running_requests", 32) or configured.get("max_running_requests", NO_LIMIT)
    assert memory.max_requests == world.group.facts().limits.max_running_requests == runs
    assert world.group.figures()["unknown"] == unknown
    complaints = [entry for entry in logs if entry["event"].startswith("neither the engine")]
    assert [entry["unknown"] for entry in complaints] == [unknown] * bool(unknown)
