"""Deterministic inputs for the check suites: loads, outcomes, observations, candidates.

Magnitudes are those of LLM serving on data-centre GPUs, and a few far outside them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.levels import A100_CLOCKS_MHZ
from voltana.values import (
    MAX_DEADLINE_BUCKETS,
    Bounds,
    Candidate,
    DeadlineBucket,
    Decision,
    Forecast,
    InstanceState,
    Load,
    Observation,
    Outcome,
    Queue,
    Request,
    Role,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from voltana.ports import PredictorSnapshot
    from voltana.values import FloatArray

CLOCKS_MHZ: tuple[float, ...] = A100_CLOCKS_MHZ

LOADS: Mapping[str, Load] = {
    "one request decoding": Load.decode(1, 20),
    "a decode batch": Load.decode(64, 40_000),
    "a full decode batch": Load.decode(512, 900_000),
    "a short prompt": Load.prefill([(12, 0)]),
    "four prompts of 8k": Load.prefill([(8192, 0)] * 4),
    "32 prompts of 1k": Load.prefill([(1024, 0)] * 32),
    "a chunk after a cached prefix": Load.prefill([(512, 30_000)]),
    "a mixed batch": Load(
        prefill_tokens=2048,
        prefill_attended_pairs=2048.0 * 1024,
        decode_requests=48,
        decode_kv_tokens=30_000,
    ),
}
"""One load of every kind that does some work."""

IDLE = Load()


def clocks(count: int = len(CLOCKS_MHZ)) -> FloatArray:
    """`count` ascending clocks of an A100 that end at its fastest; shape (count,)."""
    return np.array(CLOCKS_MHZ[-count:], dtype=np.float64)


def linear_latency_s(load: Load, clock_mhz: float) -> float:
    """Latency of a simple plant: linear in the load, with a part that scales with the clock.

    Coefficients are round numbers near those of an 8-billion-parameter model on an A100.
    """
    slow = CLOCKS_MHZ[-1] / clock_mhz
    prefill_s = load.prefill_tokens * 4.5e-5 * slow + load.prefill_attended_pairs * 1e-9 * slow
    decode_s = load.decode_requests * 2e-5 * slow + load.decode_kv_tokens * 8e-8
    fixed_s = 0.004 + 0.004 * slow if load.decode_requests or load.prefill_tokens else 0.0
    return prefill_s + decode_s + fixed_s


def outcomes(count: int, seed: int = 0, noise: float = 0.01) -> Iterator[Outcome]:
    """Iterations of the linear plant with varied loads and clocks, alternating in phase."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        load = _random_load(rng, decode=bool(i % 2))
        clock_mhz = float(rng.choice(CLOCKS_MHZ[40:]))
        yield Outcome(
            load=load,
            clock_mhz=clock_mhz,
            latency_s=linear_latency_s(load, clock_mhz) * float(np.exp(rng.normal(0, noise))),
            ended_at_s=0.02 * (i + 1),
        )


def hostile_outcomes(count: int = 40) -> Iterator[Outcome]:
    """Labels that are legal but far outside anything that a plant would yield."""
    latencies_s = (1e-9, 1e3, 0.02, 3600.0, 1e-6)
    loads = (*LOADS.values(), IDLE, Load.decode(100_000, 10**9), Load.prefill([(10**7, 0)]))
    for i in range(count):
        yield Outcome(
            load=loads[i % len(loads)],
            clock_mhz=(CLOCKS_MHZ[0], CLOCKS_MHZ[-1], 1.0, 3000.0)[i % 4],
            latency_s=latencies_s[i % len(latencies_s)],
            ended_at_s=float(i + 1),
        )


def broken_outcomes() -> Iterator[Outcome]:
    """Labels of sensors that failed: nan, infinite, zero or negative."""
    load = LOADS["a decode batch"]
    for latency_s, clock_mhz in (
        (math.nan, 1410.0),
        (math.inf, 1410.0),
        (-1.0, 1410.0),
        (0.0, 1410.0),
        (0.02, math.nan),
        (0.02, 0.0),
        (0.02, math.inf),
    ):
        yield Outcome(load=load, clock_mhz=clock_mhz, latency_s=latency_s, ended_at_s=1.0)


def issued(forecast: Forecast, budget_s: float = 0.06) -> Decision:
    """A decision as a loop hands it back with its outcome."""
    return Decision(
        clock_mhz=float(forecast.clocks_mhz[-1]),
        reason="sample",
        status=Status.CERTIFIED,
        forecast=forecast,
        budget_s=budget_s,
    )


def deadlines(now_s: float, count: int, first_s: float, step_s: float) -> Queue:
    """A prefill queue of `count` batches of 4096 tokens whose deadlines lie `step_s` apart."""
    buckets = tuple(
        DeadlineBucket(
            deadline_s=now_s + first_s + step_s * i,
            cumulative_tokens=4096 * (i + 1),
            cumulative_attended_pairs=4096.0 * 512 * (i + 1),
            cumulative_batches=i + 1,
        )
        for i in range(min(count, MAX_DEADLINE_BUCKETS))
    )
    return Queue(requests=16 * count, tokens=4096 * count, oldest_wait_s=0.1, deadlines=buckets)


def observation(load: Load, now_s: float = 10.0, **changes: Any) -> Observation:
    """A plain observation of `load`, with `changes` to its fields."""
    fields: dict[str, Any] = {
        "instance": "d0" if load.decode_requests else "p0",
        "sampled_at_s": now_s,
        "now_s": now_s,
        "load": load,
        "clock_mhz": CLOCKS_MHZ[-1],
        "target_mhz": CLOCKS_MHZ[-1],
        "power_w": 250.0,
        "last_latency_s": 0.02,
    }
    return Observation(**(fields | changes))


def history(count: int = 60, seed: int = 0, start_s: float = 0.0) -> Iterator[Observation]:
    """Observations of one instance over time, idle stretches and a growing queue included.

    Every 50 ms, with 7 s of silence in the middle.
    """
    rng = np.random.default_rng(seed)
    clock_mhz = CLOCKS_MHZ[-1]
    for i in range(count):
        load = IDLE if i % 7 == 6 else _random_load(rng, decode=bool(i % 2))
        now_s = start_s + 0.05 * (i + 1) + (0.0 if i < count // 2 else 7.0)
        queue = deadlines(now_s, i % 40, 0.2, 0.05) if load.prefill_tokens else Queue(requests=i)
        yield observation(
            load,
            now_s,
            queue=queue,
            clock_mhz=clock_mhz,
            target_mhz=clock_mhz,
            power_w=float(rng.uniform(80, 400)),
            last_latency_s=float(rng.uniform(0.01, 0.2)),
        )
        clock_mhz = float(rng.choice(CLOCKS_MHZ))


def bounds_to_try() -> tuple[Bounds, ...]:
    """Ranges of every kind, contradictory and empty ones included."""
    return (
        Bounds(max_mhz=1005.0, max_source="operator"),
        Bounds(min_mhz=1005.0, min_source="operator"),
        Bounds(min_mhz=900.0, max_mhz=900.0),
        Bounds(max_mhz=1.0),
        Bounds(min_mhz=5000.0),
    )


@dataclass(frozen=True, slots=True)
class LinearSnapshot:
    """A frozen latency model of the linear plant, for candidates."""

    scale: float = 1.0
    margin: float = 0.1

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        mean_s = np.array([linear_latency_s(load, float(c)) * self.scale for c in clocks_mhz])
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s * (1.0 + self.margin))

    def to_dict(self) -> Mapping[str, object]:
        """See `voltana.ports.PredictorSnapshot.to_dict`."""
        return {"scale": self.scale, "margin": self.margin}


SNAPSHOT: PredictorSnapshot = LinearSnapshot()


def candidate(index: int, role: Role, **changes: Any) -> Candidate:
    """A lightly loaded instance, with `changes` to its fields."""
    decode = role is not Role.PREFILL
    fields: dict[str, Any] = {
        "instance": f"{role.value[0]}{index}",
        "role": role,
        "state": InstanceState(
            running_requests=16 if decode else 1,
            kv_tokens=8_000 if decode else 0,
            queued_requests=0 if decode else 2,
            queued_tokens=0 if decode else 1_000,
            clock_mhz=CLOCKS_MHZ[-1],
        ),
        "predictor": SNAPSHOT,
        "levels_mhz": (1005.0, 1200.0, 1410.0),
        "budget_s": 0.06 if decode else 0.6,
    }
    return Candidate(**(fields | changes))


def request(index: int, prompt_tokens: int = 300) -> Request:
    """A request that arrives in its turn, at 60 requests/s."""
    return Request(
        request_id=index,
        arrived_at_s=index / 60,
        prompt_tokens=prompt_tokens,
        expected_output_tokens=200.0 if index % 2 else None,
    )


def same_forecast(one: Forecast, other: Forecast, tolerance: float = 0.0) -> bool:
    """Whether two forecasts are equal, to a relative `tolerance`."""
    return all(
        np.allclose(a, b, rtol=tolerance, atol=0.0)
        for a, b in (
            (one.clocks_mhz, other.clocks_mhz),
            (one.mean_s, other.mean_s),
            (one.upper_s, other.upper_s),
        )
    )


def json_text(value: object) -> str:
    """`value` as strict JSON text.

    Raises:
        TypeError: If it holds something that JSON has no form for.
        ValueError: If it holds nan or an infinity.
    """
    return json.dumps(value, allow_nan=False, sort_keys=True)


def _random_load(rng: np.random.Generator, *, decode: bool) -> Load:
    if decode:
        batch = int(rng.integers(1, 256))
        return Load.decode(batch, batch * int(rng.integers(50, 1500)))
    return Load.prefill((int(n), 0) for n in rng.integers(20, 2000, size=rng.integers(1, 8)))
