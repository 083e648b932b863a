"""Engines that compute little at once: limits that memory and iterations know nothing of."""

from __future__ import annotations

import pytest

from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario

PAIRS = {"prefill": 1, "decode": 2}
CASES = {
    "pairs": (
        "llama-3.1-8b", "a100-sxm4-80gb", PAIRS, {"max_running_requests": 16},
        "sharegpt", 7.0, 0.15,
    ),
    "colocated": (
        "llama-3.1-8b", "a100-sxm4-80gb", {"colocated": 2}, {"max_running_requests": 16},
        "sharegpt", 4.0, 0.37,
    ),
    "short batches of prompts": (
        "benchmarks/models/deepseek-v2-lite.json", "h200-sxm", {"prefill": 3, "decode": 1},
        {"max_prefill_tokens": 512}, "arxiv", 25.0, 0.3,
    ),
}  # fmt: skip
"""Model, board, instances, limits of the engine, workload, requests/s, least that is saved."""


FEW_PLACES = {
    "24 on each of three": (
        {"hardware": "h100-sxm", "colocated": 3}, {"max_running_requests": 24, "mixed_chunk": True},
        {"ttft_ms": 2000.0, "itl_ms": 100.0}, {"rate_rps": 41.47, "duration_s": 40.0}, 629,
    ),
    "8 on each of three": (
        {"hardware": "h200-sxm", "colocated": 3}, {"max_running_requests": 8},
        {"ttft_ms": 200.0, "itl_ms": 40.0}, {"rate_rps": 11.52, "duration_s": 40.0}, 378,
    ),
}  # fmt: skip
"""Instances that are full in turn: cluster, limits of the engine, SLO, workload, seed."""


@pytest.mark.parametrize("case", FEW_PLACES)
def test_no_request_waits_for_a_place_while_another_instance_has_one(case):
    """Taken in turn, 21 and 2 points of the first tokens were late for that."""
    cluster, engine, slo, workload, seed = FEW_PLACES[case]
    scenario = load_scenario(
        None,
        {
            "policies": ["static-max-routed", "voltana"],
            "seed": seed,
            "cluster": {"model": "llama-3.1-8b", **cluster},
            "engine": engine,
            "slo": slo,
            "workload": {"name": "sharegpt", **workload},
        },
    )
    fastest, ours = (run.result for run in compare(scenario).runs)
    assert ours.ttft_attainment >= fastest.ttft_attainment - 0.01
    assert ours.itl_attainment >= fastest.itl_attainment - 0.01


@pytest.mark.parametrize("case", CASES)
def test_first_tokens_do_not_wait_for_what_another_instance_could_do(case):
    model, hardware, instances, engine, workload, rate_rps, least = CASES[case]
    scenario = load_scenario(
        None,
        {
            "policies": ["static-max", "voltana"],
            "seed": 7,
            "cluster": {"model": model, "hardware": hardware, **instances},
            "engine": engine,
            "slo": {"ttft_ms": 300.0 if workload == "arxiv" else 600.0},
            "workload": {"name": workload, "rate_rps": rate_rps, "duration_s": 30.0},
        },
    )
    fastest, ours = (run.result for run in compare(scenario).runs)
    assert ours.ttft_attainment >= fastest.ttft_attainment - 0.01
    assert ours.itl_attainment >= fastest.itl_attainment - 0.01
    assert ours.energy_j <= (1.0 - least) * fastest.energy_j
