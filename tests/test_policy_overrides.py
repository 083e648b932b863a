"""Levels and a latency model of the user's own, under whatever policy."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from tests.honest import HonestPredictor
from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import ARRIVALS, load_scenario
from voltana.levels import A100_CLOCKS_MHZ
from voltana.plant.simulation import Simulation
from voltana.policies import get_policy, policy_names, with_overrides, with_power_budget
from voltana.policy import InstanceContext
from voltana.predictors.conformal import Conformal
from voltana.slo import Slo
from voltana.testing.samples import linear_latency_s
from voltana.values import Load, Role

CONTEXT = InstanceContext(
    instance="d0", role=Role.DECODE, table_mhz=A100_CLOCKS_MHZ, slo=Slo(ttft_s=0.6, itl_s=0.06)
)
OWN = """
from tests.honest import HonestPredictor

made = []


def model(context):
    made.append(context.instance)
    return HonestPredictor()


def nothing():
    return 7


def broken():
    raise RuntimeError("no such table")
"""


class Bench:
    def measure_s(self, load: Load, clock_mhz: float) -> float:
        return linear_latency_s(load, clock_mhz)


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_model.py").write_text(OWN)
    yield "own_model:model"
    sys.modules.pop("own_model", None)


def scenario(*policies, **tables):
    return load_scenario(
        None,
        {
            "policies": list(policies),
            "cluster": {"prefill": 1, "decode": 1},
            ARRIVALS: {"rate_rps": 10.0, "duration_s": 3.0},
            **tables,
        },
    )


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_chooses_from_the_users_levels_alone(name):
    levels = (1005.0, 1200.0, 1410.0)
    made = with_overrides(get_policy(name), levels="1005,1200,1410").control(
        dataclasses.replace(CONTEXT, bench=Bench())
    )
    assert made.levels_mhz == levels


def test_a_policy_that_knows_levels_builds_itself_on_them():
    for name in ("voltana", "window", "voltana-v0.1", "pid"):
        made = with_overrides(get_policy(name), levels="even:5").control(
            dataclasses.replace(CONTEXT, bench=Bench())
        )
        controller = getattr(made.controller, "controller", made.controller)
        assert tuple(controller.levels_mhz) == made.levels_mhz
        assert len(made.levels_mhz) == 5


def test_a_power_budget_takes_no_level_that_the_user_left_out():
    policy = with_overrides(with_power_budget(get_policy("voltana"), 900.0), levels="above:900")
    made = policy.control(CONTEXT)
    assert min(made.levels_mhz) == 900.0
    assert made.controller.levels_mhz == made.levels_mhz


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ("1003", "levels_mhz = 1003.0 is not allowed"),
        ("sometimes", "levels = 'sometimes' is not allowed"),
        ("above:2000", "a set that meets the supported 210-1410 MHz"),
        ("nvml", "'nvml' needs a device that can be asked"),
    ],
)
def test_levels_that_are_none_are_refused_before_anything_runs(levels, words):
    with pytest.raises(ConfigError) as caught:
        scenario("static-max", levels=levels)
    assert words in str(caught.value)


def test_the_cluster_runs_on_the_levels_and_its_reference_too():
    run = compare(scenario("voltana", "static-max", levels="900,1005"), record_timelines=True)
    for made in run.runs:
        for instance in made.record.instances:
            assert instance.timeline.clock_mhz.max() < 1006
    assert run.runs[1].result.prefill_clock_mhz == pytest.approx(1005, rel=0.05)


def test_a_users_latency_model_takes_the_place_of_the_policys(own):
    given = scenario("voltana", predictor=own)
    simulation = Simulation(
        given.cluster, given.configured(given.policies["voltana"]), given.trace, plant=given.plant
    )
    predictors = [instance.runner.loop.predictor for instance in simulation.instances]
    assert all(isinstance(p, Conformal) for p in predictors)
    assert all(isinstance(p.predictor, HonestPredictor) for p in predictors)
    assert sys.modules["own_model"].made == ["prefill-0", "decode-0"]
    simulation.run()
    assert simulation.finished == len(given.trace)


@pytest.mark.parametrize("name", ["window", "voltana-v0.1"])
def test_a_published_policy_plans_on_the_users_model_without_a_bench(own, name):
    made = with_overrides(get_policy(name), predictor=own).control(CONTEXT)
    assert isinstance(made.predictor, HonestPredictor)
    assert made.controller.predictor is made.predictor


def test_a_model_that_has_learned_already_stays(own):
    learned = HonestPredictor()
    context = dataclasses.replace(CONTEXT, predictor=learned)
    made = with_overrides(get_policy("window"), predictor=own).control(context)
    assert made.predictor is learned


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("own_model:nothing", "made int: must have forecast(), learn() and snapshot()"),
        ("own_model:broken", "raised RuntimeError in broken()"),
        ("own_model:absent", "predictor = 'own_model:absent': module 'own_model' has no 'absent'"),
        ("nonsense", "predictor = 'nonsense' is not allowed: must be MODULE:FACTORY"),
    ],
)
def test_what_is_no_latency_model_is_refused_by_name(own, reference, words):
    with pytest.raises(ConfigError) as caught:
        compare(scenario("voltana", predictor=reference))
    assert words in str(caught.value)
    assert "predictor" in str(caught.value)
