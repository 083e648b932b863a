"""Sweeps on a Ray cluster of two nodes of this machine: `make test-ray`."""

from __future__ import annotations

import os

import pytest

from tests.sweep_steps import SHORT, grid, kill_hard, records, sweep_process, wait_until
from voltana.errors import ConfigError
from voltana.evaluation.sweep import LocalWorkers, make_plan, run_sweep
from voltana.evaluation.sweep.ray_workers import ATTEMPTS, RayWorkers
from voltana.evaluation.sweep.store import RESULTS
from voltana.evaluation.sweep.table import write_parquet
from voltana.evaluation.sweep.work import Task

LONG = {**SHORT, "workload": {"rate_rps": 4.0, "duration_s": 120.0}}

os.environ.setdefault("RAY_raylet_start_wait_time_s", "240")  # of a loaded machine

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def cluster():
    """A head without cores, and a node of one core; tests add their second."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed: make test-ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small()})
    made.add_node(num_cpus=1, **small())
    yield made
    made.shutdown()


@pytest.fixture
def second(cluster):
    """Another node of one core, for one test."""
    node = cluster.add_node(num_cpus=1, **small())
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


def small():
    return {"object_store_memory": 80_000_000, "include_dashboard": False}


def parquet_of(plan, folder, workers):
    """The bytes of the results of a plan that is run."""
    outcome = run_sweep(plan, folder, workers)
    assert not outcome.failures
    return write_parquet(outcome.rows, folder)[0].read_bytes()


def test_two_nodes_make_the_same_file_as_this_machine(cluster, second, tmp_path):
    plan = make_plan(SHORT, {"seed": list(range(8))})
    on_ray = parquet_of(plan, tmp_path / "ray", RayWorkers(cluster.address))
    assert on_ray == parquet_of(plan, tmp_path / "here", LocalWorkers(1))


def test_the_runs_of_a_node_that_dies_are_done_again_elsewhere(cluster, second, tmp_path):
    plan = make_plan({**SHORT, "workload": {"rate_rps": 4.0, "duration_s": 60.0}},
                     {"seed": list(range(12))})  # fmt: skip
    out, seen = tmp_path / "ray", {}

    def progress(ended, _total, _failed):
        if ended == 3:
            seen.update(records(out))
            cluster.remove_node(second, allow_graceful=False)

    outcome = run_sweep(plan, out, RayWorkers(cluster.address), progress)
    assert second not in cluster.worker_nodes
    assert not outcome.failures
    assert outcome.ran == len(records(out)) == 12
    assert {name: records(out)[name] for name in seen} == seen  # none done twice
    assert write_parquet(outcome.rows, out)[0].read_bytes() == parquet_of(
        plan, tmp_path / "here", LocalWorkers(2)
    )


@pytest.fixture
def brief():
    """A cluster of one node that does not outlive its test."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small()})
    made.add_node(num_cpus=1, **small())
    yield made
    made.shutdown()


def test_a_cluster_without_nodes_is_an_error_and_what_was_kept_stays(brief, tmp_path):
    plan = make_plan(LONG, {"seed": list(range(60))})

    def progress(ended, _total, _failed):
        if ended == 2:
            (node,) = brief.worker_nodes
            brief.remove_node(node, allow_graceful=False)

    with pytest.raises(ConfigError, match="had no core for 15 s: its nodes are gone"):
        run_sweep(plan, tmp_path, RayWorkers(brief.address, 1, patience_s=15.0), progress)
    assert 2 <= len(records(tmp_path)) < 60
    few = make_plan(LONG, {"seed": [0, 1, 2, 3]})
    kept = sum(f"{point.key}.json" in records(tmp_path) for point in few.points)
    assert run_sweep(few, tmp_path, LocalWorkers(1)).ran == 4 - kept


def test_killed_three_times_and_resumed_on_ray_it_is_the_same_file(cluster, second, tmp_path):
    runs, out = 200, tmp_path / "ray"
    arguments = (*grid(runs), "--ray", cluster.address)
    kept = {}
    for share in (0.1, 0.3, 0.5):
        process = sweep_process(out, *arguments)
        wait_until(lambda share=share: len(records(out)) >= share * runs, within_s=1200)
        kill_hard(process)
        now = records(out)
        assert {name: now[name] for name in kept} == kept
        kept = now
    last = sweep_process(out, *arguments)
    _, said = last.communicate(timeout=1200)
    assert last.returncode == 0, said
    assert f"{runs} of {runs} scenarios, {runs - len(kept)} run now" in said
    whole = sweep_process(tmp_path / "here", *grid(runs))
    assert whole.wait(timeout=1200) == 0
    assert (out / RESULTS).read_bytes() == (tmp_path / "here" / RESULTS).read_bytes()


def test_what_kills_its_process_is_told_and_the_others_go_on(cluster, tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(
        "import os, signal\n"
        "from voltana.policies import get_policy\n"
        "def make(name):\n"
        f"    if name != 'static-max' and os.getpid() != {os.getpid()}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return get_policy(name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plan = make_plan(
        {**SHORT, "policies": ["static-max"]},
        {"policies": [["static-max"], ["static-low"]]},
        policy_source="deadly:make",
    )
    outcome = run_sweep(plan, tmp_path / "out", RayWorkers(cluster.address))
    assert outcome.ran == 1
    (said,) = outcome.failures.values()
    assert f"died, {ATTEMPTS} times" in said
    assert "If memory is short" in said


def test_a_node_with_other_code_says_so(cluster, monkeypatch):
    monkeypatch.setattr("voltana.evaluation.sweep.ray_workers.code_digest", lambda: "other")
    task = Task(key="a", scenario={**SHORT})
    (outcome,) = RayWorkers(cluster.address).run([task])
    assert "has other code of voltana" in outcome.error
