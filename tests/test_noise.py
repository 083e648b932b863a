"""Noise costs what its quantile asks for, and no more: certificates go on, and so does saving."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tests.guarantee_steps import World, mean_at
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario
from voltana.policies.default import PROMISE
from voltana.values import Status

ITERATIONS = 2000


def normal(rng, size):
    return rng.standard_normal(size)


def heavy(rng, size):
    """Student's t with three degrees of freedom, of deviation 1."""
    return rng.standard_t(3, size) / math.sqrt(3.0)


@pytest.mark.parametrize("drawn", [normal, heavy])
@pytest.mark.parametrize("deviation", [0.05, 0.1, 0.2, 0.3])
def test_no_noise_ends_certificates_where_the_budget_has_room_for_it(drawn, deviation):
    noise = np.exp(deviation * drawn(np.random.default_rng(7), ITERATIONS)).tolist()
    world = World(itl_s=5.0 * mean_at(1410.0), statement=PROMISE)
    statuses = world.run(ITERATIONS, slower=noise.__getitem__)
    assert statuses.count(Status.CERTIFIED) > 0.98 * ITERATIONS
    account = world.predictor.account()
    assert account["missed"] <= account["bound"]
    # Hence the quantile of the noise, no more: as many miss as may, in the second half as well.
    assert account["missed"] >= 0.5 * PROMISE.alpha * ITERATIONS


def test_the_constant_follows_the_margin_that_was_needed():
    """Of a calm machine the account allows less than what could ever have been needed."""
    bounds = []
    for deviation in (0.03, 0.3):
        rng = np.random.default_rng(7)
        noise = np.exp(deviation * rng.standard_normal(ITERATIONS)).tolist()
        world = World(itl_s=5.0 * mean_at(1410.0), statement=PROMISE)
        world.run(ITERATIONS, slower=noise.__getitem__)
        bounds.append(world.predictor.account()["bound"] - PROMISE.alpha * ITERATIONS)
    calm, noisy = bounds
    assert calm < 5.0 < noisy < PROMISE.constant(0.15, ITERATIONS) / 4


@pytest.mark.parametrize(
    ("rate_rps", "workload"), [(50.0, "sharegpt"), (75.0, "lmsys")], ids=["sharegpt", "lmsys"]
)
def test_noise_leaves_most_of_the_saving(rate_rps, workload):
    """Over three seeds: of one the ratio is that of two chances."""
    saved = {0.03: 0.0, 0.2: 0.0}
    for noise, seed in itertools.product(saved, (11, 12, 13)):
        made = compare(
            load_scenario(
                None,
                {
                    "policies": ["static-max", "voltana"],
                    "seed": seed,
                    "workload": {"name": workload, "rate_rps": rate_rps, "duration_s": 40.0},
                    "engine": {"latency_noise": noise},
                },
            )
        )
        fastest, ours = (run.result for run in made.runs)
        saved[noise] += ours.energy_saved_vs_static_max / 3.0
        for kept in ("ttft_attainment", "itl_attainment", "itl_token_attainment"):
            assert getattr(ours, kept) >= getattr(fastest, kept) - 0.01, kept
        assert ours.certified_share > 0.9
    assert saved[0.2] > 0.7 * saved[0.03] > 0.1
