"""What was profiled before a rehearsal, for policies that look up tables, as their authors do.

The machine that is profiled is the plant, as in the simulator: with noise, at settled clocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.levels import Published, parse_levels
from voltana.plant.bench import PlantBench
from voltana.plant.noise import LognormalNoise
from voltana.policies import get_policy
from voltana.predictors.tables import profile_tables, save_tables
from voltana.serving.agent.building import stack_of
from voltana.values import Role

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.evaluation.scenario import Scenario
    from voltana.rehearsal.port import Rehearsed
    from voltana.serving.config import Config

MOST_BATCH = 1024
"""The largest decode batch that is profiled."""


def write_tables(
    path: Path, config: Config, scenario: Scenario, dialect: Rehearsed, policy: str
) -> bool:
    """Profile the plant into a file for the agents of a policy, if it needs one.

    Args:
        path: The file.
        config: The user's configuration; what it names itself is taken.
        scenario: Whose plant is profiled.
        dialect: The engine's.
        policy: Name of the policy.

    Returns:
        Whether there is a file now.
    """
    named = config.policy
    own = named.profile is not None or named.predictor is not None
    if own or not get_policy(policy).profiled:
        return False
    cluster, launch = scenario.cluster, config.launch
    assert launch is not None
    rng = np.random.default_rng(np.random.SeedSequence([scenario.file.seed, *b"profile"]))
    levels = Published() if named.levels is None else parse_levels(named.levels)
    tables = profile_tables(
        PlantBench(scenario.plant, LognormalNoise(rng, cluster.engine.latency_noise)),
        Role.COLOCATED,
        levels.levels(cluster.hardware.clocks_mhz),
        max_batch_tokens=cluster.limits.max_batch_tokens,
        max_batch=min(cluster.limits.max_running_requests, MOST_BATCH),
    )
    said = {
        "model": launch.model_path,
        "tp_size": cluster.tensor_parallel,
        "version": dialect.version,
    }
    save_tables(tables, stack_of(config, said), path)
    return True
