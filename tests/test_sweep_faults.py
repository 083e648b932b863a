"""Sweeps that are killed, have no room, or lose their parent: nothing lost, nothing twice."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest

from tests.sweep_steps import (
    ROOT,
    SHORT,
    children_of,
    grid,
    is_running,
    kill_hard,
    records,
    sweep_process,
    wait_until,
)
from voltana.cli.sweep import finish, run_plan
from voltana.errors import ConfigError
from voltana.evaluation.sweep import LocalWorkers, make_plan, run_sweep
from voltana.evaluation.sweep.ray_workers import RayWorkers
from voltana.evaluation.sweep.store import RESULTS
from voltana.evaluation.sweep.work import Outcome


@pytest.mark.parametrize("runs", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_three_times_and_resumed_it_is_the_same_file(tmp_path, runs):
    undisturbed = sweep_process(tmp_path / "whole", *grid(runs))
    _, said = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, said
    out, kept = tmp_path / "killed", {}
    for share in (0.1, 0.3, 0.5):
        process = sweep_process(out, *grid(runs))
        wait_until(lambda share=share: len(records(out)) >= share * runs)
        kill_hard(process)
        now = records(out)
        assert {name: now[name] for name in kept} == kept  # not written again
        kept = now
    assert 0 < len(kept) < runs  # else it was over before it was killed
    last = sweep_process(out, *grid(runs))
    _, said = last.communicate(timeout=300)
    assert last.returncode == 0, said
    assert f"{runs} of {runs} scenarios, {runs - len(kept)} run now" in said
    assert {name: records(out)[name] for name in kept} == kept
    assert (out / RESULTS).read_bytes() == (tmp_path / "whole" / RESULTS).read_bytes()
    assert not list((out / "runs").glob(".*"))


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(tmp_path):
    plan = make_plan(SHORT, {"seed": [1]})
    run_sweep(plan, tmp_path, LocalWorkers(1))
    torn = [tmp_path / "runs" / ".abc.json.4711", tmp_path / f".{RESULTS}.4712"]
    others = [tmp_path / ".hidden", tmp_path / ".notes.txt", tmp_path / "runs" / "4711"]
    for path in (*torn, *others):
        path.write_text("half of")
    assert run_sweep(plan, tmp_path, LocalWorkers(1)).ran == 0
    assert not any(path.exists() for path in torn)
    assert all(path.exists() for path in others)


def test_workers_end_with_the_sweep_that_was_killed(tmp_path):
    long = ("--grid", "seed=1..4", "--grid", "duration=3600", "--workers", "2")
    process = sweep_process(tmp_path, *long)
    wait_until(lambda: len(children_of(process.pid)) >= 3)  # with multiprocessing's own
    workers = children_of(process.pid)
    kill_hard(process)
    wait_until(lambda: not any(map(is_running, workers)), within_s=20)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_an_interrupt_ends_it_in_one_line_and_says_what_is_kept(tmp_path, number, code, word):
    process = sweep_process(tmp_path, *grid(400))
    wait_until(lambda: len(records(tmp_path)) >= 3)
    workers = children_of(process.pid)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert said.splitlines()[-1] == f"voltana: {word}"
    assert "the same command goes on from there" in said.splitlines()[-2]
    assert "Traceback" not in said
    wait_until(lambda: not any(map(is_running, workers)), within_s=20)


@pytest.mark.parametrize("pause_s", [0.002, 0.005, 0.01, 0.02])
def test_one_who_interrupts_again_and_again_gets_the_same_line(tmp_path, pause_s):
    process = sweep_process(tmp_path, *grid(400))
    wait_until(lambda: len(records(tmp_path)) >= 1)
    workers = children_of(process.pid)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(pause_s)
    _, said = process.communicate(timeout=30)
    assert said.splitlines()[-1] == "voltana: interrupted"
    assert "Traceback" not in said
    assert process.returncode == 130
    wait_until(lambda: not any(map(is_running, workers)), within_s=20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_simulation_that_is_ended_says_so_in_one_line(tmp_path, number):
    arguments = ["simulate", "--duration", "3600", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "voltana", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "partial.csv").exists)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert said.splitlines() == [f"voltana: {'interrupted' if number == 2 else 'terminated'}"]
    assert process.returncode == 128 + number


def test_an_interrupt_while_the_command_loads_is_one_line():
    code = (
        "import sys, types\n"
        "class Impatient:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from voltana.cli.entry import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "voltana: interrupted\n")


@pytest.mark.parametrize("limit_kb", [2, 6])
def test_a_file_that_may_not_grow_loses_nothing(tmp_path, limit_kb):
    """A record of 4 kB or the Parquet of 25 kB does not fit."""
    arguments = ("--grid", "pd=1:1", "--grid", "duration=1", "--policy", "static-max",
                 "--grid", "seed=1..3", "--workers", "1", "--out", str(tmp_path))  # fmt: skip
    limited = f"ulimit -f {limit_kb}; exec {sys.executable} -m voltana sweep {' '.join(arguments)}"
    done = subprocess.run(["sh", "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot be written: File too large. The runs that are kept stay" in done.stderr
    assert "Traceback" not in done.stderr
    kept = len(records(tmp_path))
    last = sweep_process(tmp_path, *arguments[:-2])
    _, said = last.communicate(timeout=120)
    assert f"3 of 3 scenarios, {3 - kept} run now" in said
    assert not list(tmp_path.glob("**/.*"))


def test_a_full_disk_is_one_line_and_what_was_kept_stays(tmp_path, monkeypatch):
    plan = make_plan(SHORT, {"seed": [1, 2, 3, 4]})
    real, left = os.fsync, [5]  # of the plan and its folder, of one record and its, of the next

    def no_room(descriptor):
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(ConfigError, match=r"cannot be written: No space left on device\. The runs"):
        run_sweep(plan, tmp_path, LocalWorkers(1))
    monkeypatch.undo()
    assert len(records(tmp_path)) == 1
    assert not list((tmp_path / "runs").glob(".*"))
    assert run_sweep(plan, tmp_path, LocalWorkers(1)).ran == 3


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", "cannot be reached: nothing answers there within 5 s"),
        ("ray://127.0.0.1:9", "cannot be reached: nothing answers there within 5 s"),
        ("somewhere", "must be auto, HOST:PORT or ray://HOST:PORT"),
        ("127.0.0.1:99999", "must be auto, HOST:PORT or ray://HOST:PORT"),
    ],
)
def test_a_ray_cluster_that_is_not_there_is_said_at_once(monkeypatch, address, said):
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))  # an extra, maybe not here
    with pytest.raises(ConfigError, match=said):
        RayWorkers(address)


def can_mount():
    if shutil.which("unshare") is None:
        return False
    tried = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="a small file system cannot be mounted here")
def test_a_disk_that_is_really_full(tmp_path):
    small, big = tmp_path / "small", tmp_path / "copy"
    small.mkdir()
    sweep = f"{sys.executable} -m voltana sweep --out {small}/s {' '.join(grid(24))}"
    script = (
        f"mount -t tmpfs -o size=64k none {small} && ({sweep}; echo code $?) && "
        f"cp -a {small}/s {big} && mount -o remount,size=4m {small} && {sweep} && "
        f"cp {small}/s/{RESULTS} {big}/"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "code 2" in done.stdout, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    kept = len(records(big))
    assert 0 < kept < 24
    assert f"24 of 24 scenarios, {24 - kept} run now" in done.stderr
    assert (big / RESULTS).stat().st_size > 1000


class Failing:
    """Workers on which nothing succeeds."""

    def run(self, tasks):
        yield from (Outcome(key=task.key, error="no") for task in tasks)


def test_a_sweep_whose_scenarios_all_fail_leaves_the_table_before(tmp_path, capsys):
    run_plan(make_plan(SHORT, {"seed": [1]}), tmp_path, LocalWorkers(1))
    before = (tmp_path / RESULTS).read_bytes()
    plan = make_plan(SHORT, {"seed": [2]})
    finish(plan, run_plan(plan, tmp_path, Failing()), tmp_path)
    assert "0 of 1 scenarios, 0 run now; wrote no table" in capsys.readouterr().err
    assert (tmp_path / RESULTS).read_bytes() == before
