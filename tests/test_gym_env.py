"""The Gymnasium environment: its checker, seeds, rewards, and what an agent can do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from voltana.errors import ConfigError

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra voltana[gym]")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from voltana.plant.gym_env import ENV_ID, FEATURES, ClusterEnv  # noqa: E402

SHORT = {"duration_s": 6.0, "rate_rps": 15.0}


def episode(env, choose, seed=0):
    observation, _ = env.reset(seed=seed)
    total, late, energy_j, steps = 0.0, 0, 0.0, 0
    while True:
        observation, reward, terminated, truncated, info = env.step(choose(observation))
        total += reward
        energy_j += info["energy_j"]
        late += info["late_requests"]
        steps += 1
        assert not terminated
        if truncated:
            return total, energy_j, late, steps


def fastest(env):
    return lambda _observation: np.full(2, len(env.levels_mhz) - 1)


def slowest(_env):
    return lambda _observation: np.zeros(2, dtype=int)


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.filterwarnings("ignore:.*render_modes.*")
@pytest.mark.filterwarnings("ignore:.*spec.*")
def test_the_checker_of_gymnasium_passes(routing):
    check_env(ClusterEnv(routing=routing, decode=2, **SHORT), skip_render_check=True)


def test_it_is_registered_and_made_by_name():
    with gymnasium.make(f"voltana.plant.gym_env:{ENV_ID}", **SHORT) as env:
        observation, info = env.reset(seed=1)
        assert observation.shape == (2, len(FEATURES))
        assert info["instances"] == ("prefill-0", "decode-0")


def test_the_same_seed_gives_the_same_episode_and_another_one_does_not():
    def run(seed):
        env = ClusterEnv(**SHORT)
        env.reset(seed=seed)
        env.action_space.seed(3)
        return [env.step(env.action_space.sample()) for _ in range(25)]

    first, again, other = run(7), run(7), run(8)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a[0], b[0])
        assert a[1] == b[1]
    assert [s[1] for s in first] != [s[1] for s in other]


def test_energy_adds_up_and_slow_clocks_take_less():
    env = ClusterEnv(**SHORT)
    _, fast_j, fast_late, steps = episode(env, fastest(env))
    assert steps == 30
    assert env._simulation.now_s == pytest.approx(6.0)
    assert fast_j == pytest.approx(env._simulation.energy_j())
    _, slow_j, _, _ = episode(env, slowest(env))
    assert slow_j < 0.8 * fast_j
    assert fast_late == 0


def test_what_is_late_costs():
    env = ClusterEnv(duration_s=6.0, rate_rps=120.0, ttft_penalty_j=1000.0, itl_penalty_j=0.0)
    reward, energy_j, late, _ = episode(env, slowest(env))
    assert late > 20
    assert reward == pytest.approx(-energy_j - 1000.0 * late)


def test_late_requests_are_those_of_the_record():
    env = ClusterEnv(duration_s=8.0, rate_rps=120.0)
    _, _, late, _ = episode(env, slowest(env))
    record = env._simulation.record()
    due = record.arrival_s + 0.6
    assert late == int(((record.first_token_s > due) & (due < 8.0)).sum())


def test_the_agent_routes():
    env = ClusterEnv(decode=2, routing=True, **SHORT)
    env.reset(seed=0)
    for _ in range(20):
        env.step(np.array([7, 7, 7, 1]))
    states = [instance.state() for instance in env._simulation.instances[1:]]
    assert states[0].running_requests == 0
    assert states[1].running_requests > 0


def test_a_step_before_the_first_reset_is_refused():
    with pytest.raises(gymnasium.error.ResetNeeded):
        ClusterEnv().step(np.zeros(2, dtype=int))


@pytest.mark.parametrize("action", [[8, 0], [-1, 0], [0], [0, 0, 0], [0.5, 0.5]])
def test_an_action_outside_the_space_is_refused(action):
    env = ClusterEnv(**SHORT)
    env.reset(seed=0)
    with pytest.raises(gymnasium.error.InvalidAction, match="action = "):
        env.step(action)
    env.step([7, 0])


def test_steps_never_give_energy_back():
    env = ClusterEnv(duration_s=8.0, rate_rps=60.0, decode=2, period_s=0.05)
    env.reset(seed=2)
    env.action_space.seed(2)
    least_j = 0.05 * 3 * 40.0
    for _ in range(160):
        assert env.step(env.action_space.sample())[4]["energy_j"] > least_j


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*render_modes.*")
@pytest.mark.filterwarnings("ignore:.*spec.*")
def test_the_checker_passes_on_another_cluster():
    cluster = {"hardware": "h100-sxm", "model": "qwen3-32b", "prefill": 2, "decode": 3}
    check_env(ClusterEnv(routing=True, **cluster, **SHORT), skip_render_check=True)


@pytest.mark.filterwarnings("ignore:.*render_modes.*")
@pytest.mark.filterwarnings("ignore:.*spec.*")
def test_colocated_instances_are_steered_and_routed_to():
    env = ClusterEnv(colocated=2, routing=True, itl_penalty_j=1.0, **SHORT)
    _, info = env.reset(seed=0)
    assert info["instances"] == ("colocated-0", "colocated-1")
    assert env.action_space.nvec.tolist() == [8, 8, 3]
    late = 0
    for _ in range(25):
        observation, *_, info = env.step(np.array([0, 7, 0]))
        late += info["late_tokens"]
    assert observation[0, 1] > 0 == observation[1, 1]  # all go to the first, at the slowest clock
    assert late > 0  # prompts come between tokens
    both = ClusterEnv(prefill=1, decode=1, colocated=1, routing=True, **SHORT)
    _, info = both.reset(seed=0)
    assert info["instances"] == ("prefill-0", "decode-0", "colocated-0")
    both.step(np.array([7, 7, 7, 0]))


def test_environments_can_be_run_side_by_side():
    envs = gymnasium.make_vec(
        f"voltana.plant.gym_env:{ENV_ID}", num_envs=2, vectorization_mode="sync", **SHORT
    )
    envs.reset(seed=1)
    _, rewards, *_ = envs.step(np.array([[7, 7], [0, 0]]))
    assert rewards.shape == (2,)
    envs.close()


@pytest.mark.parametrize(
    "bad",
    [
        {"period_s": 0.0},
        {"period_s": 99.0},
        {"ttft_penalty_j": -1.0},
        {"levels": 0},
        {"rate_rps": -1.0},
        {"rate_rps": 0.0},
        {"rate_rps": 0.1},
        {"prefill": 0},
    ],
)
def test_arguments_are_checked(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        ClusterEnv(**bad)


def test_an_unknown_workload_is_refused_at_once():
    with pytest.raises(ConfigError, match="unknown workload"):
        ClusterEnv(workload="nope")


def test_the_core_does_not_need_gymnasium():
    script = "import sys, voltana.plant.simulation; assert 'gymnasium' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_documented_example_runs():
    page = Path(__file__).parent.parent / "docs" / "gym.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, str(page), "exec"), {})
