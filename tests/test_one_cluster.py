"""The same cluster states through the simulator and through the serving path: equal values.

A simulation runs under the policy `voltana`. At every launch and at every choice of a router, what
its instances hold is also written into a ring, as an engine's plugin would, read by the agent's
loop, published on a feed, followed by the router, and shown to a router beside it. What controllers
and routers see on either side is compared in every field there is.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import serving_mirror
from tests.compared import same
from tests.serving_mirror import (
    CONFIG,
    HARDWARE,
    MODEL,
    PLANT,
    SIMULATOR_ONLY,
    cluster,
    info_of,
    run,
)
from voltana.cluster.needs import unmet
from voltana.plant.runner_factory import RunnerFactory
from voltana.plant.simulation import Simulation
from voltana.plant.workload import make_workload
from voltana.plant.workload.trace import Trace
from voltana.policies.named import POLICIES
from voltana.ports import needs_of
from voltana.serving.agent.building import engine_limits, make_context
from voltana.serving.config import parse_config
from voltana.slo import Slo
from voltana.values import Need, Role

BINDINGS = pytest.mark.parametrize("binding", ["early", "late"])


@BINDINGS
def test_a_recorded_workload_looks_the_same_to_the_simulator_and_beside_an_engine(
    tmp_path, binding
):
    trace = make_workload("sharegpt", rate_rps=60.0, duration_s=8.0, seed=3)
    mirror = run(tmp_path, cluster(max_prefill_tokens=2048, binding=binding), trace)
    assert mirror.queues > 500
    assert mirror.deadlines > 40
    assert mirror.candidates >= 3 * len(trace)


@BINDINGS
def test_caches_that_are_held_look_the_same_to_the_simulator_and_beside_an_engine(
    tmp_path, binding
):
    trace = make_workload("sharegpt", rate_rps=30.0, duration_s=3.0, seed=3)
    mirror = run(tmp_path, cluster(max_running_requests=8, binding=binding), trace)
    assert mirror.holding > 20


@BINDINGS
def test_requests_are_deferred_alike_by_the_simulator_and_beside_an_engine(
    tmp_path, monkeypatch, binding
):
    """Under a threshold that few requests at once can keep, so that there is much to hold."""
    monkeypatch.setattr(serving_mirror, "SLO", Slo(ttft_s=3.0, itl_s=0.016))
    slo = {"ttft_ms": 3000.0, "itl_ms": 16.0}
    config = parse_config({"slo": slo, "engine": {"hardware": HARDWARE, "model": MODEL}})
    monkeypatch.setattr(serving_mirror, "CONFIG", config)
    trace = make_workload("sharegpt", rate_rps=30.0, duration_s=5.0, seed=3)
    mirror = run(tmp_path, cluster(binding=binding), trace)
    assert mirror.slacks > 50
    assert mirror.deferrals > 100
    dispatcher = mirror.simulation._dispatcher
    held, other = dispatcher.holding.counts, dispatcher.holding_late.counts
    counts, none = (held, other) if binding == "early" else (other, held)
    assert counts.held > 20
    assert none.held == 0
    assert counts.longest_s <= 3.0


requests = st.lists(
    st.tuples(st.floats(0.0, 0.3), st.integers(1, 9000), st.integers(1, 40)),
    min_size=1,
    max_size=35,
)


@settings(max_examples=25, deadline=None)
@given(
    requests=requests,
    max_prefill_tokens=st.sampled_from([300, 2048, 8192]),
    max_running_requests=st.sampled_from([2, 2048]),
    reserved_decode_tokens=st.sampled_from([0, 512]),
    binding=st.sampled_from(["early", "late"]),
)
def test_any_state_looks_the_same_to_the_simulator_and_beside_an_engine(
    tmp_path_factory, requests, **options
):
    gaps, prompts, outputs = zip(*requests, strict=True)
    trace = Trace(
        arrival_s=np.cumsum(gaps), prompt_tokens=np.array(prompts), output_tokens=np.array(outputs)
    )
    mirror = run(tmp_path_factory.mktemp("mirror"), cluster(**options), trace)
    assert mirror.candidates >= 3 * len(trace)  # a request that waits for room is asked about again


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
@given(
    max_prefill_tokens=st.integers(1, 1 << 16),
    max_running_requests=st.integers(1, 4096),
    reserved_decode_tokens=st.integers(0, 4096),
)
def test_policies_are_told_the_same_of_an_instance(
    role, max_prefill_tokens, max_running_requests, reserved_decode_tokens
):
    spec = cluster(
        max_prefill_tokens=max_prefill_tokens,
        max_running_requests=max_running_requests,
        reserved_decode_tokens=reserved_decode_tokens,
    )
    info = info_of(spec, role)
    name = f"{role.value}-0"
    runners = RunnerFactory.__new__(RunnerFactory)
    runners._cluster, runners._seed, runners._bench = spec, 0, None
    simulated = runners._context(name, role)
    served = make_context(
        CONFIG,
        instance=name,
        info=info,
        limits=engine_limits(CONFIG.engine, info),
        table_mhz=spec.hardware.clocks_mhz,
        slo=CONFIG.thresholds(),
    )
    same(simulated, served, leave_out=SIMULATOR_ONLY)


class Prying:
    """A candidate that notes which of its fields are read."""

    def __init__(self, candidate):
        self._candidate = candidate
        self.read = set()

    def __getattr__(self, name):
        self.read.add(name)
        return getattr(self._candidate, name)


FIELD_OF = {
    Need.LATENCY: "predictor",
    Need.POWER: "power",
    Need.LEVELS: "levels_mhz",
    Need.BUDGET: "budget_s",
    Need.KV_CAPACITY: "kv_capacity_tokens",
}


MODELLESS = {"pid-routed", "static-low-routed", "static-max-routed"}
"""Baselines that forecast nothing: their routers fall back, and are said to lack a model."""


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_no_router_of_a_policy_runs_without_what_it_asks_for_or_asks_for_less_than_it_reads(name):
    """The simulator gives every router what it needs, and every router says what it reads."""
    policy = POLICIES[name]
    routed, lacking = {}, set()

    def watched(role, make):
        def router(seed):
            inner = make(seed)

            class Watching:
                def route(self, request, candidates):
                    shown = [Prying(candidate) for candidate in candidates]
                    needs = needs_of(inner)
                    lacking.update(*unmet(needs, [s._candidate for s in shown]).values())
                    answer = inner.route(request, shown)
                    read = set().union(*(s.read for s in shown))
                    for need, field in FIELD_OF.items():
                        assert field not in read or need in needs, f"{inner!r} reads {field}"
                    routed[role] = routed.get(role, 0) + 1
                    return answer

            return Watching()

        return router

    watching = dataclasses.replace(
        policy,
        prefill_router=watched(Role.PREFILL, policy.prefill_router),
        decode_router=watched(Role.DECODE, policy.decode_router),
    )
    trace = make_workload("sharegpt", rate_rps=30.0, duration_s=2.0, seed=1)
    spec = dataclasses.replace(cluster(), prefill=2)
    Simulation(spec, watching, trace, seed=1, plant=PLANT).run()
    assert set(routed) == {Role.PREFILL, Role.DECODE}
    assert lacking == ({Need.LATENCY} if name in MODELLESS else set())
