"""``voltana-sglang launch`` on real servers, and what happens when one part after another dies.

The GPUs are fake, driver and all; clocks are set through the real daemon.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from servers import ARGUMENTS, ENVIRONMENT, administration, get, wait_for
from tests.actuation import driver
from tests.actuation.daemons import Daemon
from tests.actuation.driver import Machine
from tests.clusters import faults
from tests.clusters.launched import TABLES, Engine, Launched, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Fleet

TOKENS = 32
SAMPLING = {"temperature": 0.0, "max_new_tokens": TOKENS, "ignore_eos": True}
ENGINE = Engine(
    program="voltana_sglang",
    environment=ENVIRONMENT,
    launch={
        "arguments": list(ARGUMENTS),
        "decode_arguments": ["--disaggregation-decode-retraction-backup", "none"],
    },
    path="/generate",
    body=lambda number: {"text": f"prompt number {number}", "sampling_params": SAMPLING},
    tokens=lambda answer: list(answer["output_ids"]),
    length=TOKENS,
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Three fake A100s."""
    if driver.compiler() is None:
        pytest.skip("no C compiler to build the fake driver with (install gcc)")
    folder = tmp_path_factory.mktemp("machine")
    made = Machine(folder, driver.build(folder), devices=3)
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the launch, its daemon and its logs live."""
    return tmp_path_factory.mktemp("launch")


@pytest.fixture(scope="module")
def daemon(machine: Machine, folder: Path) -> Iterator[Daemon]:
    """The daemon, restarted whenever it dies, as systemd does."""
    with Daemon(folder, machine, init=True) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(
    machine: Machine, daemon: Daemon, folder: Path, tiny_model: Path, fleet: Fleet
) -> Iterator[Launched]:
    """1P2D under a launch that keeps serving."""
    fleet.stop()  # room for three more servers
    servers = {"prefill": 1, "decode": 2, "gpus": [0, 1, 2], "on_exit": "keep-serving"}
    with Launched(
        ENGINE, folder, tiny_model, servers, TABLES, environment=machine.environment()
    ) as made:
        made.wait_ready()
        yield made


def test_every_part_is_ready_and_says_so(cluster: Launched) -> None:
    said = cluster.said()
    names = ["prefill-0", "decode-0", "decode-1"]
    for name in [*names, *(f"agent-{name}" for name in names), "router"]:
        assert f"{name:<12} ready after" in said
        assert (cluster.logs / f"{name}.log").exists()


def test_requests_are_answered_alike_whichever_server_decodes(cluster: Launched) -> None:
    first, again = ([cluster.generate(number) for number in range(6)] for _ in range(2))
    assert first == again
    assert len({tuple(ids) for ids in first}) > 1


def test_decisions_reach_the_driver(cluster: Launched, machine: Machine) -> None:
    with cluster.traffic():
        assert machine.wait(lambda: all(machine.locked_mhz(gpu) for gpu in range(3)), 120)
    statuses = {name: cluster.well(name) for name in ("prefill-0", "decode-0", "decode-1")}
    for status in statuses.values():
        assert not status["dry_run"]
    assert {status["role"] for status in statuses.values()} == {"prefill", "decode"}


def test_the_router_plans_on_what_agents_publish(cluster: Launched) -> None:
    def chosen() -> str:
        return administration(cluster.url, "/metrics").decode()

    with cluster.traffic() as traffic:
        assert traffic.completes_from(0.0, 10)
        assert wait_for(lambda: 'choices_total{role="decode",source="feed"}' in chosen())
    assert "router failed" not in (cluster.logs / "router.log").read_text()
    assert "unusable feed message" not in (cluster.logs / "router.log").read_text()


def test_at_low_load_one_decode_instance_serves_and_the_other_waits_slowly(
    cluster: Launched,
) -> None:
    """The default policy's router consolidates, on power models that agents publish."""
    with cluster.traffic(clients=1) as traffic:
        assert wait_for(lambda: consolidated(cluster, traffic), 240), explained(cluster)
    for name in ("decode-0", "decode-1"):
        status = cluster.status(name)
        assert status["unknown"] == []
        assert (status["kv_capacity_tokens"], status["kv_reserved_tokens"]) == (8192, 512)
    decode = routing(cluster)["decode"]
    assert "MarginalEnergy" in decode["router"], decode["router"]
    assert "power model" in decode["needs"]
    assert decode["missing"] == {}


def consolidated(cluster: Launched, traffic: Traffic) -> bool:
    """Whether ten requests in a row, planned on all that was needed, went to one instance.

    And whether the other then stands at its lowest clock, as its agent and the driver say.
    """
    names = ["decode-0", "decode-1"]
    before, planned = [iterations(cluster, name) for name in names], routing(cluster)["decode"]
    assert traffic.completes_from(time.monotonic(), 10)
    worked = [iterations(cluster, n) - b for n, b in zip(names, before, strict=True)]
    if routing(cluster)["decode"]["choices_without"] != planned["choices_without"]:
        return False
    if sum(count > 0 for count in worked) != 1:
        return False
    idle = names[worked.index(0)]
    status = cluster.status(idle)
    lowest_mhz = json.loads(get(f"{cluster.agent(idle)}/levels", admin=True)[1])["levels_mhz"][0]
    return (
        status["running_requests"] == status["queued_requests"] == 0
        and status["target_mhz"] == lowest_mhz
        and abs(status["clock_mhz"] - lowest_mhz) <= 20
    )


def iterations(cluster: Launched, name: str) -> int:
    return int(cluster.status(name)["iterations"]["decode"])


def routing(cluster: Launched) -> dict[str, dict[str, Any]]:
    answer: dict[str, Any] = json.loads(administration(cluster.url, "/router/status"))
    return dict(answer["routing"])


def explained(cluster: Launched) -> str:
    statuses = [cluster.status(name) for name in ("decode-0", "decode-1")]
    return f"{routing(cluster)} {statuses} {cluster.logged('router')}"


def test_top_shows_every_instance(cluster: Launched) -> None:
    command = [sys.executable, "-m", "voltana", "top", "--json"]
    listed = cluster.logs / "agents.json"
    done = subprocess.run(
        [*command, "--from", str(listed)], capture_output=True, text=True, check=True
    )
    shown = {row["instance"]: row for row in json.loads(done.stdout)}
    assert set(shown) == {"prefill-0", "decode-0", "decode-1"}
    assert all(row["clock_mhz"] > 0 for row in shown.values())


def test_a_killed_agent_costs_its_clock_for_a_moment_and_no_request(
    cluster: Launched, machine: Machine
) -> None:
    faults.kill_an_agent(cluster, machine)


def test_a_killed_router_is_back_and_its_clients_were_told(cluster: Launched) -> None:
    faults.kill_the_router(cluster)


def test_a_killed_daemon_costs_clocks_for_a_moment_and_no_request(
    cluster: Launched, machine: Machine, daemon: Daemon
) -> None:
    faults.kill_the_daemon(cluster, machine, daemon)


def test_a_killed_decode_server_is_left_out(cluster: Launched, machine: Machine) -> None:
    faults.kill_a_decode_server(cluster, machine)


def test_without_a_prefill_server_everything_ends_and_no_clock_stays(
    cluster: Launched, machine: Machine
) -> None:
    faults.kill_the_prefill_server(cluster, machine)


def test_a_dry_run_sets_no_clock_and_ends_without_a_trace(
    machine: Machine, daemon: Daemon, tiny_model: Path, tmp_path: Path, fleet: Fleet
) -> None:
    fleet.stop()
    assert machine.wait(lambda: not machine.any_locked(), 60)
    calls = machine.set_calls()
    servers = {"prefill": 1, "decode": 1, "gpus": [0, 1]}
    tables = TABLES.replace("{folder}/actuator.sock", str(daemon.socket))
    environment = machine.environment()
    with Launched(
        ENGINE, tmp_path, tiny_model, servers, tables, environment=environment, flags=["--dry-run"]
    ) as made:
        made.wait_ready()
        assert made.generate(0)
        with made.traffic() as traffic:
            assert traffic.completes_from(0.0, 10)
        status = made.status("decode-0")
        assert status["dry_run"] is True
        assert get(f"{made.agent('decode-0')}/metrics")[0] == 200
        processes = made.processes()
        assert len(processes) >= 8
        assert made.stop(signal.SIGINT) == 0
        assert made.survivors() == []
    assert machine.set_calls() == calls
    assert not machine.any_locked()
