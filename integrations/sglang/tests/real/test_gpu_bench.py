"""``python -m benchmarks.gpu`` whole, on a real SGLang on the CPU and a machine with a fake GPU."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from servers import ARGUMENTS, ENVIRONMENT
from tests.actuation import driver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from servers import Fleet

ROOT = Path(__file__).parents[4]
DECODE = "--disaggregation-transfer-backend fake --disaggregation-decode-retraction-backup none"
GRID = ("--batches", "1,4", "--contexts", "40,100", "--prompts", "32,128,9000")
SHORT = ("--hold-s", "0.5", "--idle-s", "0.5", "--load-s", "4", "--rate", "3")
SETTING = ("D_SET_CALLS", "D_RESET_CALLS", "D_DENIED_CALLS", "D_CAP_CALLS")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[driver.Machine]:
    """One fake A100."""
    if driver.compiler() is None:
        pytest.skip("no C compiler to build the fake driver with (install gcc)")
    folder = tmp_path_factory.mktemp("gpu-machine")
    made = driver.Machine(folder, driver.build(folder), devices=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where results go."""
    return tmp_path_factory.mktemp("gpu-bench")


def bench(
    machine: driver.Machine, model: Path, folder: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    """Run the benchmark, short, and give its fake GPU's profile by name."""
    variables: Mapping[str, str] = ENVIRONMENT | {"TMPDIR": str(folder)}
    command = [
        sys.executable, "-m", "benchmarks.gpu", "--model", str(model), "--out", str(folder),
        "--hardware", "a100-sxm4-80gb", *GRID, *SHORT, "--decode-arguments", DECODE,
        "--engine-times",
        "--engine-arguments", shlex.join(ARGUMENTS),
        "--engine-environment", shlex.join(f"{key}={value}" for key, value in variables.items()),
        *more,
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=ROOT, env=machine.environment(), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def results(
    machine: driver.Machine, tiny_model: Path, folder: Path, fleet: Fleet
) -> dict[str, Any]:
    """What a whole run measured."""
    fleet.stop()  # room for its servers
    done = bench(machine, tiny_model, folder)
    assert done.returncode == 0, done.stderr
    assert "decode       4 x 100: 4 of 4, 0 s left" in done.stderr
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_no_call_that_sets_anything_reaches_the_driver(
    results: dict[str, Any], machine: driver.Machine
) -> None:
    assert results["about"]["boards"] == 1
    assert {name: machine.get(0, name) for name in SETTING} == dict.fromkeys(SETTING, 0)
    assert machine.set_calls() == []
    assert not machine.any_locked()


def test_every_point_that_fits_is_measured(results: dict[str, Any]) -> None:
    assert list(results["decode"]) == ["1 x 40", "4 x 40", "1 x 100", "4 x 100"]
    points = [*results["decode"].values(), results["prefill"]["32"], results["prefill"]["128"]]
    for point in points:
        assert point["iterations"] >= 3
        assert 0 < point["median_ms"] <= point["p99_ms"]
        assert point["clock_mhz"] == 1410  # the fake board boosts while it is busy
        assert point["sensor_w"] == pytest.approx(380, rel=0.05)
        assert point["plant_ms"] > 0
        assert 0 < point["engine_median_ms"] < 1.5 * point["median_ms"]
    assert "does not fit" in results["prefill"]["9000"]["skipped"]


def test_board_and_doctor_are_told(results: dict[str, Any]) -> None:
    assert {finding["subject"] for finding in results["doctor"]} >= {"driver"}
    assert results["boards"][0]["clocks_mhz"] == [210, 1410]
    for watched in ("idle", "served_idle"):
        assert results[watched]["sensor_w"] == pytest.approx(380, rel=0.05)
    assert set(results["calls"]) == {"clock", "power", "energy", "event reasons"}
    for at_work in ("held_open", "products"):  # there is no CUDA to do any
        assert "skipped" in results[at_work]


def test_every_iteration_and_reading_is_kept(results: dict[str, Any], folder: Path) -> None:
    rows = np.load(folder / "iterations" / "decode-4x100.npz")["rows"]
    whole = rows[rows[:, 2] == 4]
    assert len(whole) >= results["decode"]["4 x 100"]["iterations"]
    readings = np.load(folder / "idle.npz")["rows"]
    assert len(readings) == results["idle"]["samples"]


def test_plugin_agent_and_hooks_account_for_the_load(results: dict[str, Any]) -> None:
    load = results["load"]
    plugin, agent = load["plugin"], load["agent"]
    assert plugin["prompt_tokens"] == plugin["prompt_tokens_sent"]
    assert plugin["decoded_tokens"] >= plugin["decoded_tokens_answered"]
    assert plugin["lost"] == plugin["torn"] == 0
    assert agent["dry_run"]
    assert agent["iterations"]["decode"] > 0
    assert agent["prediction"]["decode"]["mae_ms"] > 0
    assert sum(agent["decisions"].values()) > 0
    assert 0 < load["hooks"]["p50_us"] <= load["hooks"]["p99_us"]


def test_hooks_are_toggled_in_one_server(results: dict[str, Any]) -> None:
    assert results["toggled"]["blocks"] > 0


def test_the_page_is_written_and_a_second_run_measures_nothing_again(
    results: dict[str, Any], machine: driver.Machine, tiny_model: Path, folder: Path
) -> None:
    page = (folder / "gpu.md").read_text()
    assert "| 4 x 100 |" in page
    assert "agent's share of a core" in page
    done = bench(machine, tiny_model, folder)
    assert done.returncode == 0, done.stderr
    assert "starting" not in done.stderr
    assert json.loads((folder / "results.json").read_text()) == results


def test_a_port_that_is_taken_and_a_model_that_is_absent_are_said_in_a_line(
    machine: driver.Machine, tiny_model: Path, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = bench(machine, tiny_model, tmp_path, "--first-port", str(port))
        assert done.returncode == 2
        assert f"port {port}" in done.stderr
        assert done.stderr.count("\n") == 1
    done = bench(machine, Path("/nowhere"), tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "launch.model_path = '/nowhere'" in done.stderr
    assert list(tmp_path.rglob("*.log")) == []  # nothing was started
