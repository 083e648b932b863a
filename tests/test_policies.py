"""Policies by name and by reference: what they are made of, and that they run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from voltana.errors import ConfigError, UnknownNameError
from voltana.levels import A100_CLOCKS_MHZ
from voltana.plant.cluster import ClusterSpec
from voltana.plant.hardware import load_hardware
from voltana.plant.iteration import PlantModel
from voltana.plant.model import load_model
from voltana.plant.simulation import Simulation
from voltana.plant.workload import make_workload
from voltana.policies.named import POLICIES, get_policy, policy_names, with_routing
from voltana.policy import InstanceContext, as_instance_policy
from voltana.ports import Controller, Router
from voltana.routers.ecoroute import EcoRoute
from voltana.routers.fill_up import FillUp
from voltana.routers.least_loaded import LeastLoaded
from voltana.routers.random import RandomRouter
from voltana.routers.round_robin import RoundRobin
from voltana.routers.tile_aware import TileAware
from voltana.routers.what_if_v01 import WhatIfV01
from voltana.slo import Slo
from voltana.testing import samples
from voltana.values import Load, Role

SLO = Slo(ttft_s=0.6, itl_s=0.05)
HARDWARE = ("a100-sxm4-80gb", "h100-sxm", "h200-sxm")
PUBLISHED_ROUTING = {
    "static-max": RoundRobin,
    "static-low": RoundRobin,
    "window": RoundRobin,
    "pid": RoundRobin,
    "voltana-v0.1": TileAware,
    "voltana-v0.1-margin": TileAware,
    "voltana-v0.1-whatif": WhatIfV01,
}
LEARNING = {"voltana", "voltana-mdp", "voltana-affinity"}


class NoisyBench:
    """Measures the linear plant; counts how often it is asked."""

    def __init__(self):
        self.asked = 0
        self._rng = np.random.default_rng(0)

    def measure_s(self, load, clock_mhz):
        self.asked += 1
        return samples.linear_latency_s(load, clock_mhz) * float(self._rng.normal(1.0, 0.02))


def spec(hardware="a100-sxm4-80gb", **changes):
    return ClusterSpec(
        hardware=load_hardware(hardware), model=load_model("llama-3.1-8b"), slo=SLO, **changes
    )


def context(role=Role.DECODE, *, hardware="a100-sxm4-80gb", bench=None):
    cluster = spec(hardware)
    return InstanceContext(
        instance=f"{role.value}-0",
        role=role,
        table_mhz=cluster.hardware.clocks_mhz,
        slo=SLO,
        datasheet=cluster.datasheet(),
        bench=bench,
        max_batch_tokens=8192,
        max_running_requests=256,
    )


@pytest.fixture(scope="module")
def plant():
    cluster = spec()
    return PlantModel(cluster.hardware, cluster.model, 1)


def run(policy, plant, rate_rps=30.0, duration_s=4.0, seed=1):
    trace = make_workload("sharegpt", rate_rps, duration_s, seed)
    simulation = Simulation(spec(), policy, trace, seed=seed, plant=plant)
    simulation.run()
    return simulation.record()


def test_the_issues_policies_have_names_and_one_line_each():
    required = {*PUBLISHED_ROUTING, "voltana", "static-max-routed", "window-routed"}
    assert required <= set(policy_names())
    for name, policy in POLICIES.items():
        assert policy.name == name
        assert policy.summary.strip()
        assert len(policy.summary.splitlines()) == 1
        assert get_policy(name) is policy


def test_listing_them_loads_nothing_heavy():
    script = (
        "import sys\n"
        "from voltana.policies.named import POLICIES\n"
        "[policy.summary for policy in POLICIES.values()]\n"
        "print([m for m in ('river', 'control', 'scipy', 'matplotlib') if m in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_builds_for_every_device(name, hardware):
    bench = NoisyBench()
    for role in (Role.PREFILL, Role.DECODE):
        about = context(role, hardware=hardware, bench=bench)
        made = get_policy(name).control(about)
        assert list(made.levels_mhz) == sorted(set(made.levels_mhz))
        assert set(made.levels_mhz) <= set(about.table_mhz)
        assert made.levels_mhz[-1] == about.table_mhz[-1] or name.startswith("static-low")
        assert isinstance(made.controller, Controller)
        assert (made.predictor is not None) == (name in LEARNING)
        load = Load.prefill([(64, 0)]) if role is Role.PREFILL else Load.decode(4, 900)
        decision = made.controller.decide(samples.observation(load))
        assert decision.clock_mhz in made.levels_mhz


@pytest.mark.parametrize(("name", "decode_router"), PUBLISHED_ROUTING.items())
def test_the_published_policies_use_the_published_routing(name, decode_router):
    policy = get_policy(name)
    assert isinstance(policy.prefill_router(3), RandomRouter)
    assert isinstance(policy.decode_router(3), decode_router)


def test_routed_policies_differ_in_their_routing_alone():
    for name in ("static-max", "static-low", "window", "pid"):
        plain, routed = get_policy(name), get_policy(f"{name}-routed")
        assert routed.control is plain.control
        assert isinstance(routed.prefill_router(0), FillUp)
        assert isinstance(routed.decode_router(0), EcoRoute)


def test_routers_can_be_swapped():
    mixed = with_routing(
        get_policy("static-max"),
        prefill=lambda seed: LeastLoaded(),
        decode=RandomRouter,
        name="mixed",
        summary="a mix",
    )
    assert (mixed.name, mixed.summary) == ("mixed", "a mix")
    assert isinstance(mixed.prefill_router(0), LeastLoaded)
    assert isinstance(mixed.decode_router(0), RandomRouter)


def test_the_released_policy_uses_the_published_levels_and_never_learns():
    made = get_policy("voltana-v0.1").control(context(bench=NoisyBench()))
    assert made.levels_mhz == (1005.0, 1410.0)
    assert made.predictor is None
    start = made.controller.decide(samples.observation(Load(), 0.0))
    assert start.clock_mhz == 1005.0


def test_alike_instances_share_one_profile_of_one_machine():
    policy, bench = get_policy("voltana-v0.1"), NoisyBench()
    first = policy.control(context(bench=bench)).controller.predictor
    asked = bench.asked
    assert policy.control(context(bench=bench)).controller.predictor is first
    assert bench.asked == asked > 0
    policy.control(context(Role.PREFILL, bench=bench))
    assert bench.asked > asked
    other = NoisyBench()
    assert policy.control(context(bench=other)).controller.predictor is not first
    assert other.asked == asked


@pytest.mark.parametrize("name", ["voltana-v0.1", "window"])
def test_tables_need_a_machine_to_profile(name):
    with pytest.raises(ConfigError, match=r"decode-0: bench = None.*voltana simulate"):
        get_policy(name).control(context())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownNameError) as caught:
        get_policy("voltanna")
    for words in ("unknown policy 'voltanna'", "Did you mean 'voltana'", "static-max", "MODULE:"):
        assert words in str(caught.value)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_serves_a_short_load(name, plant):
    record = run(get_policy(name), plant)
    assert np.isfinite(record.completed_s).all()
    assert record.energy_j() > 0
    for role in (Role.PREFILL, Role.DECODE):
        assert sum(i.iterations for i in record.instances if i.role is role) > 0


@pytest.mark.parametrize("name", ["voltana", "voltana-v0.1", "voltana-v0.1-whatif"])
def test_a_seed_gives_the_same_run_again(name, plant):
    one, other = (run(get_policy(name), plant, seed=5) for _ in range(2))
    assert np.array_equal(one.completed_s, other.completed_s)
    assert one.energy_j() == other.energy_j()


def test_voltana_saves_energy_and_keeps_the_slo(plant):
    static, released, ours = (
        run(get_policy(name), plant, rate_rps=35.0, duration_s=15.0)
        for name in ("static-max", "voltana-v0.1", "voltana")
    )
    for record in (released, ours):
        end_s = max(record.end_s, static.end_s)
        idle_w = 4 * 90.0  # more than what idling until a common end could add
        assert record.energy_j() + (end_s - record.end_s) * idle_w < 0.85 * static.energy_j()
    assert np.mean(ours.ttft_s <= SLO.ttft_s) >= np.mean(released.ttft_s <= SLO.ttft_s)
    assert np.mean(ours.mean_itl_s <= SLO.itl_s) > 0.97


USERS_OWN = '''
from voltana.policies.named import get_policy
from voltana.values import Decision

policy = get_policy("static-low")
number = 5


class Steady:
    """Always the same clock."""

    made = 0

    def __init__(self):
        Steady.made += 1

    def decide(self, observation):
        return Decision(clock_mhz=1200, reason="steady")


class Told(Steady):
    def __init__(self, context):
        self.levels_mhz = context.table_mhz[-3:]


def told(context):
    return Told(context)


class Last:
    """Always the last instance."""

    def route(self, request, candidates):
        return candidates[-1].instance


class Seeded(Last):
    def __init__(self, seed):
        self.seed = seed


def last():
    return Last()


def whole():
    return get_policy("voltana")


def nothing():
    return 7


def two(context, more):
    return Steady()
'''


@pytest.fixture
def users_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "users_own.py").write_text(USERS_OWN)
    yield "users_own"
    sys.modules.pop("users_own", None)


def test_a_users_controller_controls_every_instance(users_own):
    policy = get_policy("users_own:Steady")
    assert (policy.name, policy.summary) == ("users_own:Steady", "Always the same clock.")
    made = [policy.control(context(role)) for role in (Role.PREFILL, Role.DECODE)]
    assert made[0].controller is not made[1].controller
    assert made[0].levels_mhz == A100_CLOCKS_MHZ
    assert isinstance(policy.prefill_router(0), RandomRouter)
    assert isinstance(policy.decode_router(0), RoundRobin)


@pytest.mark.parametrize("factory", ["Told", "told"])
def test_a_users_factory_may_ask_for_the_context(users_own, factory):
    made = get_policy(f"users_own:{factory}").control(context())
    assert made.levels_mhz == A100_CLOCKS_MHZ[-3:]


@pytest.mark.parametrize("factory", ["Last", "last", "Seeded"])
def test_a_users_router_routes_both_legs_at_the_fastest_clock(users_own, factory, plant):
    policy = get_policy(f"users_own:{factory}")
    assert policy.control(context()).levels_mhz == (1410.0,)
    for make in (policy.prefill_router, policy.decode_router):
        assert isinstance(make(3), Router)
        assert make(3) is not make(3)
    record = run(policy, plant, rate_rps=5.0, duration_s=2.0)
    assert [instance.iterations > 0 for instance in record.instances] == [False, True] * 2


def test_a_users_seeded_router_gets_the_seed(users_own):
    assert get_policy("users_own:Seeded").decode_router(3).seed == 3


@pytest.mark.parametrize(("name", "same"), [("policy", "static-low"), ("whole", "voltana")])
def test_a_users_policy_is_taken_as_it_is(users_own, name, same):
    assert get_policy(f"users_own:{name}") is POLICIES[same]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("number", "names a int: must be a Policy or a factory"),
        ("nothing", "neither decide() nor route()"),
        ("two", "needs the arguments context, more"),
        ("absent", "has no 'absent'"),
    ],
)
def test_what_is_no_policy_is_refused(users_own, name, words):
    with pytest.raises(ConfigError) as caught:
        get_policy(f"users_own:{name}").control(context())
    assert words in str(caught.value)


def test_a_users_policy_runs_beside_the_named_ones(users_own, plant):
    record = run(get_policy("users_own:Steady"), plant)
    clocks = [instance.mean_clock_mhz for instance in record.instances]
    assert clocks == pytest.approx([1200.0] * 4, rel=0.05)
    assert as_instance_policy(get_policy("static-max").control(context()), context())


def test_the_documented_policy_runs(tmp_path, monkeypatch, plant):
    page = Path(__file__).parent.parent / "docs" / "policies.md"
    (source,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "documented_policy.py").write_text(source)
    policy = get_policy("documented_policy:patient")
    assert policy.summary == "EcoFreq that holds a clock for a second before it lowers it."
    record = run(policy, plant)
    assert np.isfinite(record.completed_s).all()
    assert all(instance.clock_changes > 0 for instance in record.instances)
    sys.modules.pop("documented_policy")


def test_the_documentation_names_every_policy():
    page = Path(__file__).parent.parent / "docs" / "policies.md"
    text = page.read_text(encoding="utf-8")
    assert [name for name in POLICIES if f"`{name.removesuffix('-routed')}`" not in text] == []
