"""Latency of iterations: what must hold for any board and model, and what was measured."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.errors import ConfigError, ProfileError
from voltana.plant import load_hardware, load_model
from voltana.plant.attention import decode_cost
from voltana.plant.collective import all_reduce_s
from voltana.plant.cost import FASTEST, ClockState
from voltana.plant.gemm import TILES, batched_cost, gemm_cost
from voltana.plant.hardware import hardware_names
from voltana.plant.latency import LatencyModel
from voltana.plant.model import ModelProfile
from voltana.plant.operators import Attention, Gemm
from voltana.values import Load

A100 = load_hardware("a100-sxm4-80gb")
H100 = load_hardware("h100-sxm")
LLAMA = load_model("llama-3.1-8b")
MODELS = {
    (hardware, tp): LatencyModel(load_hardware(hardware), LLAMA, tp)
    for hardware in ("a100-sxm4-80gb", "h100-sxm")
    for tp in (1, 2)
}
DATA = Path(__file__).parents[2] / "shared" / "data"

loads = st.builds(
    Load,
    prefill_tokens=st.integers(0, 9000),
    prefill_attended_pairs=st.floats(0, 1e8),
    decode_requests=st.integers(0, 400),
    decode_kv_tokens=st.integers(0, 400_000),
)
clocks = st.sampled_from(A100.clocks_mhz)


def seconds(rows, n: int, k: int, hardware=A100):
    gemm = Gemm(name="any", n=n, k=k)
    return gemm_cost(hardware, gemm, np.asarray(rows, dtype=float), "bf16").seconds(FASTEST)


def test_empty_load_takes_no_time():
    assert MODELS["a100-sxm4-80gb", 1].latency_s(Load(), 1410) == 0.0


@settings(max_examples=60, deadline=None)
@given(load=loads, more=loads, clock=clocks, key=st.sampled_from(sorted(MODELS)))
def test_more_load_never_takes_less_time(load, more, clock, key):
    larger = Load(
        prefill_tokens=load.prefill_tokens + more.prefill_tokens,
        prefill_attended_pairs=load.prefill_attended_pairs + more.prefill_attended_pairs,
        decode_requests=load.decode_requests + more.decode_requests,
        decode_kv_tokens=load.decode_kv_tokens + more.decode_kv_tokens,
    )
    if load.decode_requests and not load.prefill_tokens and larger.prefill_tokens:
        return  # a mixed batch runs outside the CUDA graph, so it is not padded
    model = MODELS[key]
    assert model.latency_s(larger, clock) >= model.latency_s(load, clock) * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(load=loads, pair=st.tuples(clocks, clocks), key=st.sampled_from(sorted(MODELS)))
def test_faster_clock_never_takes_longer_nor_gains_more_than_itself(load, pair, key):
    slow, fast = sorted(pair)
    model = MODELS[key]
    at_slow, at_fast = model.latency_s(load, slow), model.latency_s(load, fast)
    assert at_fast <= at_slow * (1 + 1e-9)
    bandwidths = [model.hardware.bandwidth_share(clock) for clock in (slow, fast)]
    largest_gain = max(fast / slow, bandwidths[1] / bandwidths[0])
    assert at_slow <= at_fast * largest_gain * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(load=loads, clock=clocks)
def test_breakdown_adds_up_and_bounds_each_part(load, clock):
    model = MODELS["a100-sxm4-80gb", 2]
    parts = model.breakdown(load, clock)
    assert sum(part.seconds for part in parts) == pytest.approx(model.latency_s(load, clock))
    for part in parts:
        assert part.seconds >= max(part.compute_s, part.memory_s) * (1 - 1e-9)
        assert min(part.flops, part.bytes, part.compute_s, part.memory_s) >= 0.0


def test_breakdown_names_the_kinds():
    kinds = {part.kind for part in MODELS["a100-sxm4-80gb", 2].breakdown(Load.decode(8, 99), 1410)}
    assert kinds == {"gemm", "elementwise", "collective", "launch", "attention_decode"}
    mixed = Load(
        prefill_tokens=10, prefill_attended_pairs=55, decode_requests=1, decode_kv_tokens=9
    )
    kinds = {part.kind for part in MODELS["a100-sxm4-80gb", 1].breakdown(mixed, 1410)}
    assert kinds == {
        "gemm",
        "elementwise",
        "launch",
        "attention_prefill",
        "attention_decode",
    }


@pytest.mark.parametrize(("below", "lowest", "highest"), [(128, 1.15, 1.6), (256, 1.15, 1.6)])
def test_tile_steps_on_a100(below, lowest, highest):
    shapes = [(4096, 4096), (8192, 4096), (4096, 14336), (8192, 8192), (28672, 4096), (16384, 8192)]
    steps = [float(np.divide(*seconds([below + 1, below], n, k))) for n, k in shapes]
    assert lowest < float(np.mean(steps)) < highest


def test_tile_step_is_smaller_on_h100():
    steps = [float(np.divide(*seconds([129, 128], 8192, 8192, board))) for board in (A100, H100)]
    assert steps[1] < steps[0]


def test_tile_step_shows_in_a_decode_iteration_beyond_padding():
    model = MODELS["a100-sxm4-80gb", 1]
    unpadded = model.token_part(np.array([127.0, 128.0, 129.0]), 1410)
    assert unpadded[1] / unpadded[0] < 1.02
    assert unpadded[2] / unpadded[1] > 1.10


def test_product_is_never_faster_than_peak_or_bandwidth():
    rows = np.array([1.0, 100.0, 1000.0, 30_000.0])
    for board in (A100, H100):
        cost = batched_cost(board, 1.0, rows, 8192.0, 8192.0, dtype="bf16")
        took = cost.seconds(FASTEST)
        assert np.all(took > cost.flops / board.peak_at_max("bf16"))
        assert np.all(took > cost.bytes / board.memory_bandwidth)


def test_whole_waves_of_large_tiles_reach_the_fitted_efficiency():
    rows, columns = TILES[-1][0] * A100.sm_count, TILES[-1][1]
    cost = batched_cost(A100, 1.0, np.array([float(rows)]), columns, 65536.0, dtype="bf16")
    reached = float(cost.flops[0] / cost.compute_s[0]) / A100.peak_at_max("bf16")
    assert reached == pytest.approx(A100.gemm.efficiency, rel=0.01)


def test_decode_batch_is_padded_to_a_captured_graph():
    model = MODELS["a100-sxm4-80gb", 1]
    batches = A100.launch.graph_batches
    assert [model.padded_batch(n) for n in (1, 3, 9, 160)] == [1, 4, 16, 160]
    assert model.padded_batch(batches[-1] + 1) == batches[-1] + 1
    same = [model.latency_s(Load.decode(n, 10_000), 1410) for n in (17, 24)]
    assert same[0] == pytest.approx(same[1], rel=0.01)


def test_only_sampled_rows_meet_the_output_embedding():
    model = MODELS["a100-sxm4-80gb", 1]
    assert model.logit_rows(Load.prefill([(300, 0)] * 7)) == 1
    assert model.logit_rows(Load.decode(9, 900)) == model.padded_batch(9)
    rows = np.array([1.0, 20.0, 60.0])
    few = np.asarray(model.head_cost(rows).seconds(FASTEST))
    assert few == pytest.approx(few[0], rel=0.02)


@pytest.mark.parametrize("load", [Load.decode(32, 32_000), Load.prefill([(1000, 0)] * 4)])
def test_tensor_parallelism_lowers_latency_with_diminishing_returns(load):
    model = load_model("llama-3.1-70b")
    times = [LatencyModel(H100, model, tp).latency_s(load, 1980) for tp in (2, 4, 8)]
    gains = [a / b for a, b in itertools.pairwise(times)]
    assert all(1.0 < gain < 2.0 for gain in gains)
    assert gains[1] < gains[0]


def test_tensor_parallelism_must_divide_the_heads():
    with pytest.raises(ConfigError, match=r"tensor_parallel = 3 .*divisor of the 32.*Choose"):
        LatencyModel(A100, LLAMA, 3)


def test_type_without_a_peak_is_refused():
    model = LLAMA.model_copy(update={"weight_dtype": "fp8"})
    with pytest.raises(ProfileError, match=r"a100-sxm4-80gb: peak_flops has no 'fp8'"):
        LatencyModel(A100, model).latency_s(Load.decode(1, 1), 1410)


@pytest.mark.parametrize("name", hardware_names())
def test_parts_that_depend_on_tokens_come_as_arrays(name):
    model = LatencyModel(load_hardware(name), LLAMA)
    tokens = np.arange(1.0, 400.0)
    clock = model.hardware.clocks_mhz[7]
    whole = model.token_part(tokens, clock)
    single = [model.token_part(np.array([count]), clock)[0] for count in tokens[::57]]
    assert whole.shape == tokens.shape
    assert whole[::57] == pytest.approx(single)
    assert np.all(np.diff(whole) >= 0.0)


def test_attention_is_affine_in_cached_tokens():
    attention = Attention(heads=32, kv_heads=8, head_dim=128, kv_dtype_bytes=2, count=32)
    requests = np.full(3, 40.0)
    cost = decode_cost(A100, attention, requests, np.array([1e4, 2e4, 3e4]))
    for part in (cost.compute_s, cost.memory_s, cost.bytes, cost.flops):
        assert np.diff(part, 2) == pytest.approx(0.0, abs=1e-12 * float(np.max(part)))


def test_grouped_query_heads_share_what_is_read():
    def read_s(kv_heads):
        attention = Attention(heads=32, kv_heads=kv_heads, head_dim=128, kv_dtype_bytes=2)
        cost = decode_cost(A100, attention, np.array([64.0]), np.array([128_000.0]))
        return float(np.asarray(cost.seconds(FASTEST))[0])

    assert 3.0 < read_s(32) / read_s(8) < 4.0


def test_decode_gains_more_from_the_clock_at_larger_batches():
    model = MODELS["a100-sxm4-80gb", 1]
    betas = []
    for batch in (8, 64):
        load = Load.decode(batch, 1000 * batch)
        slow, fast = model.latency_s(load, 1005), model.latency_s(load, 1410)
        betas.append(np.log(slow / fast) / np.log(1410 / 1005))
    # Measured on whole requests: 0.30 at batch 8 and 0.49 at batch 64.
    assert 0.2 < betas[0] < betas[1] < 0.6


def test_prefill_gains_from_the_clock_as_measured():
    model = MODELS["a100-sxm4-80gb", 1]
    load = Load.prefill([(1000, 0)] * 4)
    assert 1.2 < model.latency_s(load, 1005) / model.latency_s(load, 1410) < 1.4


def test_clock_state_is_relative_to_the_highest_clock():
    assert ClockState.of(A100, 1410) == FASTEST
    assert ClockState.of(A100, 705).compute == 0.5
    assert ClockState.of(A100, 705).bandwidth < 0.8


def test_mixture_of_experts_reads_the_experts_that_it_uses():
    moe = ModelProfile(
        name="moe",
        layers=16,
        hidden_size=2048,
        heads=16,
        kv_heads=4,
        head_dim=128,
        intermediate_size=0,
        vocab_size=32000,
        experts={"count": 64, "per_token": 4, "intermediate_size": 1024},
    )
    model = LatencyModel(H100, moe)
    moved = [
        sum(part.bytes for part in model.breakdown(Load.decode(n, 100), 1980))
        for n in (1, 8, 64, 128)
    ]
    assert moved[0] < 0.35 * moe.weight_bytes
    assert moved[0] < moved[1] < moved[2] < moved[3] < 1.5 * moe.weight_bytes
    dense = moe.model_copy(update={"experts": None, "intermediate_size": 64 * 1024})
    load = Load.prefill([(1000, 0)])
    assert model.latency_s(load, 1980) < LatencyModel(H100, dense).latency_s(load, 1980) / 3


def test_transfer_takes_the_link_and_shares_it_out():
    model, wide = MODELS["a100-sxm4-80gb", 1], MODELS["a100-sxm4-80gb", 2]
    assert model.transfer_s(0) == 0.0
    assert model.transfer_s(2000) > 2000 * LLAMA.kv_bytes_per_token / A100.link_bandwidth
    assert wide.transfer_s(2000) < model.transfer_s(2000)


def test_small_sums_are_latency_and_large_ones_the_link():
    small, large = all_reduce_s(A100, np.array([1024.0, 1e9]), 8)
    assert small == pytest.approx(A100.collective.one_shot_s, rel=0.01)
    assert large > 2 * 7 / 8 * 1e9 / A100.link_bandwidth


@pytest.mark.data
@pytest.mark.parametrize("section", ["latency_clock", "layers", "serving"])
def test_fidelity_targets(section):
    if not DATA.is_dir():
        pytest.skip("the measurements in ../shared/data are absent")
    import importlib

    rows = importlib.import_module(f"benchmarks.fidelity.{section}").run(DATA)
    missed = [
        f"{row.what}: {row.measured:.1f}, target {row.target}" for row in rows if not row.meets
    ]
    assert rows
    assert not missed
