"""Hypothesis strategies for property-based tests of predictors, controllers and routers.

Every strategy draws values that the ports allow, the awkward ones included: idle loads, full
queues, spent budgets, failed sensors (nan), caps below every level. Magnitudes are those of LLM
serving on data-centre GPUs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana import levels
from voltana.errors import MissingExtraError
from voltana.testing import samples
from voltana.testing.guarantee_program import BUDGETS, LOADS, MODES, ORDERS, Stretch
from voltana.testing.latencies import LATENCY_KINDS, latencies_s
from voltana.values import (
    MAX_DEADLINE_BUCKETS,
    UNBOUNDED,
    Bounds,
    Candidate,
    DeadlineBucket,
    Decision,
    Forecast,
    InstanceState,
    Limit,
    Load,
    Observation,
    Outcome,
    Phase,
    Prefix,
    Queue,
    Request,
    Reservation,
    Role,
    Status,
)

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise MissingExtraError(
        "voltana.testing.strategies needs Hypothesis, which is not installed. "
        "Run: pip install 'voltana[testing]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import DrawFn, SearchStrategy

MAX_TIME_S = 1e6


def tables(min_size: int = 1, max_size: int = 81) -> SearchStrategy[tuple[float, ...]]:
    """Clock tables of devices: ascending, in steps of 7.5, 15 or 30 MHz."""
    return st.builds(
        lambda low, step, count: tuple(float(low + step * i) for i in range(count)),
        st.integers(100, 600),
        st.sampled_from([7.5, 15.0, 30.0]),
        st.integers(min_size, max_size),
    )


@st.composite
def level_sets(draw: DrawFn, table_mhz: Sequence[float] = samples.CLOCKS_MHZ) -> levels.LevelSet:
    """Level sets of every kind that fit `table_mhz`, an A100's unless told otherwise."""
    clock_mhz = draw(st.sampled_from(list(table_mhz)))
    chosen = draw(st.lists(st.sampled_from(list(table_mhz)), min_size=1, max_size=8))
    count = draw(st.integers(1, 2 * len(table_mhz)))
    kinds: list[levels.LevelSet] = [
        levels.Supported(),
        levels.Published(),
        levels.EvenlySpaced(count),
        levels.EvenlySpaced(count, min_mhz=clock_mhz),
        levels.Above(clock_mhz),
        levels.Below(clock_mhz),
        levels.Explicit(tuple(chosen)),
    ]
    return draw(st.sampled_from(kinds))


def bounds() -> SearchStrategy[Bounds]:
    """Ranges of clocks: none, caps, floors, empty and contradictory ones."""
    ends = st.one_of(st.floats(0.0, 3000.0), st.sampled_from(samples.CLOCKS_MHZ))
    return st.one_of(
        st.just(UNBOUNDED),
        st.builds(lambda cap: Bounds(max_mhz=cap, max_source="operator"), ends),
        st.builds(lambda low: Bounds(min_mhz=low, min_source="operator"), ends),
        st.builds(lambda low, cap: Bounds(min_mhz=low, max_mhz=cap), ends, ends),
    )


def limits() -> SearchStrategy[Limit]:
    """Limits with sources and expiries, their ends as in `bounds`."""
    return st.builds(
        lambda source, made, expires_at_s: Limit(
            source=source,
            min_mhz=made.min_mhz,
            max_mhz=made.max_mhz,
            expires_at_s=expires_at_s,
        ),
        st.sampled_from(["operator", "power-budget", "thermal", "schedule"]),
        bounds(),
        st.one_of(st.just(math.inf), st.floats(0.0, 100.0)),
    )


def _prefill_loads() -> SearchStrategy[Load]:
    chunk = st.tuples(st.integers(1, 8192), st.integers(0, 32_768))
    return st.builds(Load.prefill, st.lists(chunk, min_size=1, max_size=16))


def _decode_loads() -> SearchStrategy[Load]:
    return st.builds(
        lambda requests, context: Load.decode(requests, requests * context),
        st.integers(1, 512),
        st.integers(1, 8192),
    )


def _mixed_loads() -> SearchStrategy[Load]:
    return st.builds(
        lambda prefill, decode: Load(
            prefill_tokens=prefill.prefill_tokens,
            prefill_attended_pairs=prefill.prefill_attended_pairs,
            decode_requests=decode.decode_requests,
            decode_kv_tokens=decode.decode_kv_tokens,
        ),
        _prefill_loads(),
        _decode_loads(),
    )


def loads(phase: Phase | None = None) -> SearchStrategy[Load]:
    """Loads of one phase, or of any."""
    made = {
        Phase.IDLE: st.just(samples.IDLE),
        Phase.PREFILL: _prefill_loads(),
        Phase.DECODE: _decode_loads(),
        Phase.MIXED: _mixed_loads(),
    }
    return made[phase] if phase is not None else st.one_of(*made.values())


@st.composite
def queues(draw: DrawFn, now_s: float = 0.0) -> Queue:
    """Queues with deadline buckets round `now_s`, some of them past; empty ones too.

    Deadlines need not ascend: an engine that does not serve in deadline order reports such.
    """
    if draw(st.booleans()):
        return Queue(requests=draw(st.integers(0, 5000)), tokens=draw(st.integers(0, 10**6)))
    count = draw(st.integers(1, MAX_DEADLINE_BUCKETS))
    tokens, pairs, batches, buckets = 0, 0.0, 0, []
    for _ in range(count):
        new = draw(st.integers(1, 16_384))
        tokens, pairs = tokens + new, pairs + new * (new + 1) / 2
        batches += draw(st.integers(1, 3))
        buckets.append(
            DeadlineBucket(
                deadline_s=now_s + draw(st.floats(-5.0, 10.0)),
                cumulative_tokens=tokens,
                cumulative_attended_pairs=pairs,
                cumulative_batches=batches,
            )
        )
    return Queue(
        requests=draw(st.integers(count, 10 * count)),
        tokens=tokens,
        oldest_wait_s=draw(st.floats(0.0, 30.0)),
        deadlines=tuple(buckets),
    )


@st.composite
def observations(
    draw: DrawFn,
    phase: Phase | None = None,
    clocks_mhz: Sequence[float] = samples.CLOCKS_MHZ,
) -> Observation:
    """Observations with sensors that may have failed (nan) or be stale."""
    now_s = draw(st.floats(0.0, MAX_TIME_S))
    sensed = st.one_of(st.just(math.nan), st.sampled_from(list(clocks_mhz)))
    return Observation(
        instance=draw(st.sampled_from(["p0", "p1", "d0", "d1"])),
        sampled_at_s=now_s - draw(st.floats(0.0, 2.0)),
        now_s=now_s,
        load=draw(loads(phase)),
        queue=draw(queues(now_s)),
        clock_mhz=draw(sensed),
        target_mhz=draw(sensed),
        power_w=draw(st.one_of(st.just(math.nan), st.floats(0.0, 1000.0))),
        bounds=draw(bounds()),
        last_latency_s=draw(st.one_of(st.just(math.nan), st.floats(1e-4, 10.0))),
    )


@st.composite
def forecasts(
    draw: DrawFn, clocks_mhz: Sequence[float] = samples.CLOCKS_MHZ, *, unknown: bool = True
) -> Forecast:
    """Forecasts whose mean falls with the clock, and whose bound covers it.

    Args:
        draw: Given by Hypothesis.
        clocks_mhz: Ascending clocks.
        unknown: Also draw infinite bounds and means.
    """
    clocks = np.array(clocks_mhz, dtype=np.float64)
    fixed_s, scaled_s = draw(st.floats(1e-4, 0.1)), draw(st.floats(0.0, 0.5))
    mean_s = fixed_s + scaled_s * clocks[-1] / clocks
    upper_s = mean_s * (1.0 + draw(st.floats(0.0, 2.0)))
    kinds = ["known", "bound unknown", "slow clocks unknown", "unknown"] if unknown else ["known"]
    kind = draw(st.sampled_from(kinds))
    if kind == "slow clocks unknown":
        upper_s[: draw(st.integers(0, len(clocks)))] = np.inf
    elif kind != "known":
        upper_s[:] = np.inf
    if kind == "unknown":
        mean_s[:] = np.inf
    return Forecast(clocks_mhz=clocks, mean_s=mean_s, upper_s=upper_s)


@st.composite
def decisions(draw: DrawFn, clocks_mhz: Sequence[float] = samples.CLOCKS_MHZ) -> Decision:
    """Decisions with and without a forecast, with the status that the forecast allows."""
    clock_mhz = draw(st.sampled_from(list(clocks_mhz)))
    if draw(st.booleans()):
        return Decision(clock_mhz=clock_mhz, reason="drawn")
    forecast, budget_s = draw(forecasts(clocks_mhz)), draw(st.floats(0.001, 2.0))
    safe = forecast.upper_at(clock_mhz) <= budget_s
    return Decision(
        clock_mhz=clock_mhz if safe else float(clocks_mhz[-1]),
        reason="drawn",
        status=Status.CERTIFIED if safe else Status.SATURATED,
        forecast=forecast,
        budget_s=budget_s,
    )


@st.composite
def outcomes(
    draw: DrawFn,
    phase: Phase | None = None,
    clocks_mhz: Sequence[float] = samples.CLOCKS_MHZ,
) -> Outcome:
    """Outcomes, plausible ones and outliers, with and without a decision."""
    load = draw(loads(phase))
    clock_mhz = draw(st.sampled_from(list(clocks_mhz)))
    plausible_s = samples.linear_latency_s(load, clock_mhz)
    return Outcome(
        load=load,
        clock_mhz=clock_mhz,
        latency_s=max(1e-6, plausible_s) * draw(st.sampled_from([0.9, 1.0, 1.1, 100.0])),
        ended_at_s=draw(st.floats(0.0, MAX_TIME_S)),
        decision=draw(st.one_of(st.none(), decisions(clocks_mhz))),
    )


def latency_sequences(
    kind: str | None = None, min_size: int = 1, max_size: int = 200
) -> SearchStrategy[tuple[float, ...]]:
    """Sequences of iteration latencies in seconds, all above 0.

    Args:
        kind: One of `LATENCY_KINDS`, or any.
        min_size: Least length.
        max_size: Greatest length.
    """
    kinds = list(LATENCY_KINDS) if kind is None else [kind]
    return st.builds(
        lambda kind, count, base_s, seed: tuple(latencies_s(kind, count, base_s, seed).tolist()),
        st.sampled_from(kinds),
        st.integers(min_size, max_size),
        st.floats(0.005, 0.2),
        st.integers(0, 2**32 - 1),
    )


def requests() -> SearchStrategy[Request]:
    """Requests as a router sees them: with and without a guess of the answer, some may be held.

    Some say what their prompt shares with others.
    """
    blocks = st.lists(st.integers(0, 3), max_size=4).map(tuple)
    return st.builds(
        lambda request_id, arrived_at_s, prompt, expected, slack_s, waited_s, prefix: Request(
            request_id=request_id,
            arrived_at_s=arrived_at_s,
            prompt_tokens=prompt,
            expected_output_tokens=expected,
            slack_s=slack_s,
            waited_s=waited_s,
            prefix=prefix,
        ),
        st.integers(0, 10**9),
        st.floats(0.0, MAX_TIME_S),
        st.integers(1, 131_072),
        st.one_of(st.none(), st.floats(1.0, 8192.0)),
        st.one_of(st.just(0.0), st.just(math.inf), st.floats(0.0, 10.0)),
        st.floats(0.0, 10.0),
        st.one_of(st.none(), st.builds(Prefix, blocks, st.sampled_from([1, 16, 512]))),
    )


@st.composite
def _candidate(draw: DrawFn, index: int, role: Role) -> Candidate:
    running = draw(st.integers(0, 512))
    queued = draw(st.integers(0, 200))
    held = draw(st.integers(0, 100))
    table = draw(st.one_of(st.just(()), tables(max_size=12)))
    snapshot = samples.LinearSnapshot(scale=draw(st.sampled_from([0.5, 1.0, 2.0])))
    return samples.candidate(
        index,
        role,
        state=InstanceState(
            running_requests=running,
            kv_tokens=running * draw(st.integers(1, 4096)),
            queued_requests=queued,
            queued_tokens=queued * draw(st.integers(1, 4096)),
            clock_mhz=draw(st.sampled_from(table or samples.CLOCKS_MHZ)),
            oldest_wait_s=draw(st.floats(0.0, 30.0)),
            computing_tokens=draw(st.integers(0, 4096)) * min(queued, 1),
            computing_for_s=draw(st.floats(0.0, 2.0)),
        ),
        state_age_s=draw(st.one_of(st.floats(0.0, 5.0), st.just(math.inf))),
        reserved=Reservation(requests=held, prompt_tokens=held * draw(st.integers(1, 4096))),
        predictor=draw(st.sampled_from([None, snapshot])),
        levels_mhz=table,
        budget_s=draw(st.one_of(st.just(math.inf), st.floats(0.001, 5.0))),
        in_flight=running + queued + held,
        kv_capacity_tokens=draw(st.sampled_from([math.inf, 1.0, 20_000.0, 500_000.0])),
        kv_reserved_tokens=draw(st.sampled_from([0.0, 512.0])),
        max_running_requests=draw(st.sampled_from([math.inf, 1, 64, 256])),
        max_batch_tokens=draw(st.sampled_from([math.inf, 1, 512, 8192])),
        prompts_first=draw(st.booleans()),
        ttft_s=draw(st.one_of(st.just(math.inf), st.floats(0.001, 10.0))),
        host_s=draw(st.sampled_from([0.0, 0.001, 1.0])),
        ends_per_s=draw(st.sampled_from([0.0, 0.5, 50.0])),
    )


@st.composite
def candidates(
    draw: DrawFn, role: Role | None = None, min_size: int = 1, max_size: int = 8
) -> tuple[Candidate, ...]:
    """Pools of instances of one role, with unlike loads, limits, levels, ages and models."""
    role = draw(st.sampled_from(Role)) if role is None else role
    count = draw(st.integers(min_size, max_size))
    order = draw(st.permutations(range(count)))
    return tuple(draw(_candidate(index, role)) for index in order)


def guarantee_programs(max_stretches: int = 6) -> SearchStrategy[list[Stretch]]:
    """Programs that attack a guarantee (`voltana.testing.guarantee_program`).

    Args:
        max_stretches: Most stretches in a row.
    """
    stretch = st.builds(
        Stretch,
        mode=st.sampled_from(MODES),
        length=st.integers(1, 60),
        load=st.integers(0, len(LOADS) - 1),
        budget=st.sampled_from(BUDGETS),
        order=st.sampled_from(ORDERS),
        twice=st.booleans(),
    )
    return st.lists(stretch, min_size=1, max_size=max_stretches)
