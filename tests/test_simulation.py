"""The event engine on a plant that can be computed by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plants import FASTEST_MHZ, Always, First, LinearPlant, cluster, policy, trace
from voltana.errors import ConfigError, RoutingError
from voltana.plant.hardware import load_hardware
from voltana.plant.model import load_model
from voltana.plant.simulation import Simulation
from voltana.values import Phase, Role


def simulate(requests, *, spec=None, chosen=None, until_s=float("inf"), horizon_s=None):
    run = Simulation(
        spec or cluster(), chosen or policy(), requests, record_timeline=True, plant=LinearPlant()
    )
    run.run(until_s=until_s)
    if horizon_s is not None:
        run.extend_to(horizon_s)
    return run.record()


def test_one_request_by_hand() -> None:
    record = simulate(trace((1.0, 500, 11)))
    assert record.ttft_s == pytest.approx([0.05])  # 500 tokens at 0.1 ms
    assert record.completed_s == pytest.approx([1.05 + 10 * 0.01])
    assert record.mean_itl_s == pytest.approx([0.01])
    assert record.gap_tokens.sum() == 10


def test_energy_by_hand_up_to_a_horizon() -> None:
    record = simulate(trace((1.0, 500, 11)), horizon_s=2.0)
    idle_w, busy_w = 0.05 * FASTEST_MHZ, 0.2 * FASTEST_MHZ
    assert record.energy_j(Role.PREFILL) == pytest.approx(1.95 * idle_w + 0.05 * busy_w)
    assert record.energy_j(Role.DECODE) == pytest.approx(1.9 * idle_w + 0.1 * busy_w)
    assert record.energy_j() == record.energy_j(Role.PREFILL) + record.energy_j(Role.DECODE)
    assert record.end_s == 2.0


def test_one_output_token_needs_no_decode() -> None:
    record = simulate(trace((0.0, 100, 1)))
    assert record.completed_s == pytest.approx(record.first_token_s)
    assert len(record.mean_itl_s) == 0
    assert record.instances[1].iterations == 0


def test_long_prompts_are_chunked_and_batches_limited() -> None:
    record = simulate(trace((0.0, 2500, 1), (0.0, 400, 1), (0.0, 200, 1)))
    prefill = record.instances[0]
    # The first iteration starts with the first request alone.
    assert prefill.timeline.batch.tolist() == [1000, 1000, 1000, 100]
    assert record.ttft_s == pytest.approx([0.3, 0.3, 0.31])


def test_the_first_gap_runs_from_the_delivery_of_the_first_token() -> None:
    # The second request joins in the middle of an iteration of the first and waits for its end.
    record = simulate(trace((0.0, 10, 100), (0.0131, 10, 3)))
    assert record.first_token_s[1] == pytest.approx(0.0141)
    first_gap_s = record.gap_s[record.gap_tokens == 1].max()
    assert first_gap_s == pytest.approx(0.021 + 0.01 - 0.0141, abs=1e-6)


def test_unfinished_requests_count_as_missed() -> None:
    record = simulate(trace((0.0, 10, 1000), (5.0, 10, 5)), until_s=2.0)
    assert np.isinf(record.completed_s).all()
    assert np.isinf(record.mean_itl_s).all()
    assert np.isinf(record.ttft_s[1])
    assert np.isfinite(record.ttft_s[0])


def test_transfer_delays_the_first_token() -> None:
    real = replace(
        cluster(transfer=True),
        hardware=load_hardware("a100-sxm4-80gb"),
        model=load_model("llama-3.1-8b"),
    )
    with_transfer = simulate(trace((0.0, 500, 5)), spec=real)
    assert with_transfer.ttft_s[0] > 0.05
    assert with_transfer.ttft_s[0] < 0.15


def test_a_full_kv_cache_delays_admission_and_retracts_the_youngest() -> None:
    rows = [(0.0, 100, 300) for _ in range(12)]
    spec = cluster(kv_capacity_tokens=2_000, reserved_decode_tokens=0)
    record = simulate(trace(*rows), spec=spec)
    decode = record.instances[1]
    assert decode.retractions > 0
    assert np.isfinite(record.completed_s).all()
    assert record.gap_tokens.sum() == 12 * 299
    # Ten prompts of 101 tokens fit, never all twelve.
    assert decode.timeline.batch.max() <= 2_000 // 101


def test_a_decode_controller_sees_the_requests_that_wait_for_room() -> None:
    controllers = []

    def make(context):
        controllers.append(Always(FASTEST_MHZ))
        return controllers[-1]

    spec = cluster(kv_capacity_tokens=2_000, reserved_decode_tokens=0)
    simulate(trace(*[(0.0, 100, 300) for _ in range(24)]), spec=spec, chosen=policy(make))
    waiting = [o.queue for o in controllers[1].seen if o.queue.requests]
    assert waiting
    assert max(q.requests for q in waiting) >= 24 - 2_000 // 101
    assert all(q.tokens >= 101 * q.requests and q.oldest_wait_s > 0 for q in waiting)


def test_one_request_larger_than_the_cache_still_completes() -> None:
    record = simulate(trace((0.0, 100, 3000)), spec=cluster(kv_capacity_tokens=1_500))
    assert np.isfinite(record.completed_s).all()


def test_a_prompt_that_cannot_fit_is_refused_and_counts_as_missed() -> None:
    spec = cluster(kv_capacity_tokens=1_500)
    record = simulate(trace((0.0, 1500, 5), (0.1, 100, 5)), spec=spec)
    assert np.isinf(record.ttft_s[0])
    assert np.isinf(record.mean_itl_s[0])
    assert np.isfinite(record.completed_s[1])
    assert record.instances[0].timeline.batch.tolist() == [100]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(0, 3), st.integers(1, 2500), st.integers(1, 60)),
        min_size=1,
        max_size=40,
    ),
    capacity=st.integers(2_600, 20_000),
    max_requests=st.integers(1, 8),
    instances=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_every_token_is_delivered_once_whatever_the_load(
    rows, capacity, max_requests, instances
) -> None:
    requests = trace(*sorted(rows))
    spec = cluster(
        kv_capacity_tokens=capacity,
        max_running_requests=max_requests,
        reserved_decode_tokens=5,
        prefill=instances[0],
        decode=instances[1],
        latency_noise=0.05,
    )
    record = simulate(requests, spec=spec)
    assert np.isfinite(record.completed_s).all()
    assert record.gap_tokens.sum() == (requests.output_tokens - 1).sum()
    assert (record.gap_s > 0).all()
    # The gaps of all requests add up to the time between their first and last tokens.
    total_s = (record.completed_s - record.first_token_s).sum()
    assert (record.gap_s * record.gap_tokens).sum() == pytest.approx(total_s, rel=1e-4, abs=1e-4)
    prefill = [i for i in record.instances if i.role is Role.PREFILL]
    assert sum(int(i.timeline.batch.sum()) for i in prefill) == requests.prompt_tokens.sum()
    decode = [i for i in record.instances if i.role is Role.DECODE]
    assert all(i.timeline.batch.max(initial=0) <= max_requests for i in decode)
    for instance in record.instances:
        spans = instance.timeline
        ends = spans.start_s[:-1] + spans.latency_s[:-1]
        assert (spans.start_s[1:] >= ends - 1e-6).all(), "iterations of one instance overlap"


def test_a_seed_gives_the_same_run_and_another_one_does_not() -> None:
    requests = trace(*[(0.05 * i, 300, 20) for i in range(50)])
    spec = cluster(latency_noise=0.05, decode=2)

    def completed(seed):
        run = Simulation(spec, policy(), requests, seed=seed, plant=LinearPlant())
        run.run()
        return run.record().completed_s

    assert np.array_equal(completed(1), completed(1))
    assert not np.array_equal(completed(1), completed(2))


def test_a_slower_clock_takes_effect_and_is_counted() -> None:
    record = simulate(trace((1.0, 500, 11)), chosen=policy(lambda _c: Always(705.0)))
    assert record.ttft_s == pytest.approx([0.1])
    prefill = record.instances[0]
    assert prefill.clock_changes == 1
    assert 705 < prefill.mean_clock_mhz < 760


def test_controllers_see_queue_deadlines_and_idling() -> None:
    controllers = []

    def make(context):
        controllers.append(Always(FASTEST_MHZ))
        return controllers[-1]

    simulate(trace((0.0, 900, 1), (0.01, 900, 1), (0.02, 900, 1)), chosen=policy(make))
    prefill = [o for o in controllers[0].seen if o.load.phase is Phase.PREFILL]
    assert [o.queue.requests for o in prefill] == [
        0,
        1,
        0,
    ]
    assert prefill[1].queue.oldest_wait_s == pytest.approx(0.08)
    assert prefill[1].queue.deadlines[0].deadline_s == pytest.approx(0.02 + 0.5)
    assert any(o.load.phase is Phase.IDLE for o in controllers[0].seen)


def test_routers_are_asked_once_a_leg_and_a_wrong_name_is_an_error() -> None:
    class Lost:
        def route(self, request, candidates):
            return "nowhere"

    with pytest.raises(RoutingError, match=r"'nowhere'.*must be one of decode-0"):
        simulate(trace((0.0, 10, 2)), chosen=policy(router=Lost))
    asked = []

    class Noting:
        def route(self, request, candidates):
            asked.append((request.request_id, candidates[0].role))
            return candidates[0].instance

    simulate(trace((0.0, 10, 2), (0.5, 10, 2)), chosen=policy(router=Noting))
    assert sorted(asked) == [(0, "decode"), (0, "prefill"), (1, "decode"), (1, "prefill")]


def test_the_ledger_counts_requests_that_are_still_being_prefilled() -> None:
    seen = []

    class Spy(First):
        def route(self, request, candidates):
            seen.append(candidates[0])
            return super().route(request, candidates)

    simulate(trace((0.0, 1000, 3), (0.01, 1000, 3), (0.02, 1000, 3)), chosen=policy(router=Spy))
    decode = [c for c in seen if c.role is Role.DECODE]
    assert [c.in_flight for c in decode] == [0, 1, 2]
    assert [c.reserved.requests for c in decode] == [0, 1, 2]
    assert [c.reserved.prompt_tokens for c in decode] == [0, 1000, 2000]
    prefill = [c for c in seen if c.role is Role.PREFILL]
    assert [c.state.queued_tokens for c in prefill] == [0, 1000, 2000]


@pytest.mark.parametrize("field", ["prefill", "decode"])
def test_no_instance_is_an_error(field) -> None:
    with pytest.raises(ConfigError, match=f"{field} = 0.*at least 1"):
        cluster(**{field: 0})


def test_weights_that_leave_no_room_are_an_error() -> None:
    with pytest.raises(ConfigError, match="leave no room for KV cache"):
        cluster(kv_capacity_tokens=10)


def test_a_host_prepares_requests_one_after_the_other():
    spec = cluster()
    slow = SimpleNamespace(request_s=0.1, step_s=0.0, token_s=0.0)
    spec.hardware.host = slow
    record = simulate(trace((0.0, 10, 2), (0.0, 10, 2), (0.0, 10, 2)), spec=spec)
    assert np.diff(record.ttft_s) == pytest.approx([0.1, 0.1])
    assert record.ttft_s[0] > 0.1


def test_a_host_that_is_slower_than_the_device_sets_the_pace_of_decode():
    spec = cluster()
    spec.hardware.host = SimpleNamespace(request_s=0.0, step_s=0.03, token_s=0.01)
    record = simulate(trace((0.0, 10, 6)), spec=spec)
    assert record.mean_itl_s == pytest.approx([0.04])
    spec.hardware.host = SimpleNamespace(request_s=0.0, step_s=0.001, token_s=0.001)
    hidden = simulate(trace((0.0, 10, 6)), spec=spec)
    assert hidden.mean_itl_s == pytest.approx([0.01])
