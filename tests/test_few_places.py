"""Engines that run few requests at once: a limit that memory and iterations know nothing of."""

from __future__ import annotations

import pytest

from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario

PAIRS = {"prefill": 1, "decode": 2}
CASES = {
    "pairs": ("llama-3.1-8b", "a100-sxm4-80gb", PAIRS, 16, 7.0, "sharegpt", 0.15),
    "pairs of many": ("ministral-3b", "h100-sxm", PAIRS, 48, 30.0, "lmsys", 0.25),
    "colocated": ("llama-3.1-8b", "a100-sxm4-80gb", {"colocated": 2}, 16, 4.0, "sharegpt", 0.37),
}
"""Model, board, instances, places, requests/s, workload, and the least share that is saved."""


@pytest.mark.parametrize("case", CASES)
def test_first_tokens_do_not_wait_for_places_that_another_instance_has(case):
    model, hardware, instances, places, rate_rps, workload, least = CASES[case]
    scenario = load_scenario(
        None,
        {
            "policies": ["static-max", "voltana"],
            "seed": 7,
            "cluster": {"model": model, "hardware": hardware, **instances},
            "engine": {"max_running_requests": places},
            "workload": {"name": workload, "rate_rps": rate_rps, "duration_s": 30.0},
        },
    )
    fastest, ours = (run.result for run in compare(scenario).runs)
    assert ours.ttft_attainment >= fastest.ttft_attainment - 0.01
    assert ours.itl_attainment >= fastest.itl_attainment - 0.01
    assert ours.energy_j <= (1.0 - least) * fastest.energy_j
