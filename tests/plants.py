"""A plant simple enough to compute by hand, for tests of the engine around it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from voltana.levels import A100_CLOCKS_MHZ
from voltana.plant.cluster import ClusterSpec, EngineOptions
from voltana.plant.workload.trace import Trace
from voltana.policy import InstanceContext, InstancePolicy, Policy
from voltana.slo import Slo
from voltana.values import Decision, Load, Observation

FASTEST_MHZ = A100_CLOCKS_MHZ[-1]


class Step(NamedTuple):
    latency_s: float
    power_w: float
    clock_mhz: float


class LinearPlant:
    """Latency inversely proportional to the clock, power proportional to it."""

    def iterate(self, load: Load, clock_mhz: float) -> Step:
        at_fastest_s = 1e-4 * load.prefill_tokens + 0.01 * bool(load.decode_requests)
        return Step(at_fastest_s * FASTEST_MHZ / clock_mhz, 0.2 * clock_mhz, clock_mhz)

    def latency_s(self, load: Load, clock_mhz: float) -> float:
        return self.iterate(load, clock_mhz).latency_s

    def idle_power_w(self, clock_mhz: float) -> float:
        return 0.05 * clock_mhz


def cluster(*, kv_capacity_tokens: int = 100_000, prefill=1, decode=1, **engine) -> ClusterSpec:
    options = {"transfer": False, "latency_noise": 0.0, "sensor_noise": 0.0, "memory_fraction": 1.0}
    hardware = SimpleNamespace(
        name="linear",
        memory_bytes=kv_capacity_tokens,
        memory_bandwidth=1.0,
        peak_flops={"bf16": 1.0},
        clocks_mhz=A100_CLOCKS_MHZ,
        clock_call_s=0.004,
        clock_settle_s=0.03,
        tdp_w=400.0,
        host=SimpleNamespace(request_s=0.0, step_s=0.0, token_s=0.0),
    )
    model = SimpleNamespace(
        experts=None,
        name="linear",
        weight_bytes=0,
        kv_bytes_per_token=1,
        kv_copies=float,
        active_parameters=1,
        layers=1,
        hidden_size=1,
        heads=1,
        head_dim=1,
    )
    return ClusterSpec(
        hardware=hardware,
        model=model,
        slo=Slo(ttft_s=0.5, itl_s=0.05),
        prefill=prefill,
        decode=decode,
        engine=EngineOptions(**{"max_prefill_tokens": 1000, **options, **engine}),
    )


class Always:
    """Always the same clock."""

    def __init__(self, clock_mhz: float) -> None:
        self.decision = Decision(clock_mhz=clock_mhz, reason="always")
        self.seen: list[Observation] = []

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        return self.decision


class First:
    """Always the first candidate; counts what it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def route(self, request, candidates):
        self.asked += 1
        return candidates[0].instance


class Turns:
    """Each candidate in turn."""

    def __init__(self) -> None:
        self.turn = -1

    def route(self, request, candidates):
        self.turn += 1
        return candidates[self.turn % len(candidates)].instance


def policy(make_controller=lambda _context: Always(FASTEST_MHZ), router=Turns) -> Policy:
    def control(context: InstanceContext) -> InstancePolicy:
        return InstancePolicy(controller=make_controller(context), levels_mhz=A100_CLOCKS_MHZ)

    return Policy(
        name="test",
        summary="for a test",
        control=control,
        prefill_router=lambda _seed: router(),
        decode_router=lambda _seed: router(),
    )


def trace(*rows: tuple[float, int, int]) -> Trace:
    """Rows of (arrival_s, prompt_tokens, output_tokens)."""
    arrival_s, prompt, output = zip(*rows, strict=True)
    return Trace(
        arrival_s=np.array(arrival_s, dtype=float),
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
    )
