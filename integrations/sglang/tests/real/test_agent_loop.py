"""The loop closed on a real engine: a real agent, the real daemon, a fake driver below."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from measured import measured_spec, send_many
from servers import admin_headers, die_with_parent, free_port, get, wait_for
from tests.actuation import driver
from tests.actuation.daemons import Daemon
from tests.clusters.calls import first_that
from voltana.policies.default import PROMISE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEASE_S = 1.0
ROUNDS = 4


class Agent:
    """An agent of the server ``looped``, on GPU 0 of a fake machine."""

    def __init__(self, folder: Path, machine: driver.Machine, daemon: Daemon) -> None:
        config = folder / "agent.toml"
        config.write_text(
            f'[agent]\nrings = "rings"\nstate = "state"\n'
            f'[actuator]\nkind = "daemon"\nsocket = "{daemon.socket}"\nlease_s = {LEASE_S}\n'
        )
        self.port = free_port()
        self.log = folder / "agent.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "voltana_sglang", "agent", "--config", str(config),
                 "--instance", "looped", "--gpus", "0", "--control-port", str(self.port)],
                env=os.environ | machine.environment(),
                stdout=log, stderr=log, preexec_fn=die_with_parent,
            )  # fmt: skip
        ends_s = time.monotonic() + 120
        while self._health() != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends_s, self.log.read_text()
            time.sleep(0.1)

    def _health(self) -> int:
        try:
            return get(f"http://127.0.0.1:{self.port}/health", timeout_s=2.0)[0]
        except OSError:
            return 0

    def status(self):
        return json.loads(get(f"http://127.0.0.1:{self.port}/status", admin=True)[1])

    def put(self, path, **body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **admin_headers()},
            method="PUT",
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read())

    def end(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("looped")


@pytest.fixture(scope="module")
def machine(folder) -> Iterator[driver.Machine]:
    if driver.compiler() is None:
        pytest.skip("no C compiler to build the fake driver with (install gcc)")
    made = driver.Machine(folder, driver.build(folder), 1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def daemon(folder, machine) -> Iterator[Daemon]:
    with Daemon(folder, machine) as running:
        yield running


@pytest.fixture
def server(fleet, folder):
    return fleet.get(measured_spec("looped", "unified", folder))[0]


@pytest.fixture
def agent(server, folder, machine, daemon) -> Iterator[Agent]:
    made = Agent(folder, machine, daemon)
    yield made
    made.end(signal.SIGKILL)


def test_the_loop_closes_and_the_predictor_learns_online(agent, server, machine, folder):
    agent.put("slo", ttft_ms=5000, itl_ms=500)
    for turn in range(ROUNDS):
        # Whatever else the machine does makes the first iterations slow and the next ones fast;
        # what is learned shows once there are enough of them.
        send_many(server, 150, seed=11 + 100 * turn)
        assert wait_for(lambda: agent.status()["iterations"]["decode"] >= 300)
        decode = agent.status()["prediction"]["decode"]
        if decode["mae_ms"] < decode["mean_predictor_mae_ms"]:
            break
    assert decode["mae_ms"] < decode["mean_predictor_mae_ms"]
    status = first_that(lambda said: said["health"] == "ok", agent.status)  # a lease may lapse
    assert status["health"] == "ok"
    assert status["records_lost"] == status["records_torn"] == 0
    (folder / "prediction.json").write_text(json.dumps(status["prediction"]))
    # Labels come in order, one behind where the engine overlaps: K of the policy is enough.
    account = status["guarantee"]
    assert account["decided"] > 0
    assert account["longest_delay"] <= PROMISE.delay
    assert account["overdue"] == account["lost"] == 0
    assert account["missed"] <= account["bound"]
    (folder / "account.json").write_text(json.dumps(account))
    assert status["power_w"] > 0
    assert wait_for(lambda: follows(agent, machine)), agent.status()


def test_every_request_is_told_and_ends_once_in_the_account(agent, server):
    agent.put("slo", ttft_ms=60_000, itl_ms=5000)
    send_many(server, 40, seed=20)  # a latency that is not known is promised to nobody
    assert wait_for(lambda: settled(agent))
    before = agent.status()["guarantee"]["requests"]
    send_many(server, 40, seed=21)
    assert wait_for(lambda: settled(agent))
    after = agent.status()["guarantee"]["requests"]
    for leg in ("ttft", "itl"):
        more = {name: after[leg][name] - before[leg][name] for name in after[leg]}
        assert more["arrived"] == 40
        assert more["lost"] == more["withdrawn"] == 0
        assert more["promised"] == more["scored"] > 20
        assert more["kept"] == more["scored"]  # under thresholds that nothing breaks
        assert after[leg]["missed"] <= after[leg]["bound"]


def settled(agent):
    """Whether every promised request has ended."""
    legs = agent.status()["guarantee"]["requests"]
    return set(legs) == {"ttft", "itl"} and not any(leg["in_flight"] for leg in legs.values())


def follows(agent, machine):
    """Whether what was decided reached the driver, and is read back from it."""
    status = agent.status()
    return (
        machine.locked_mhz() == status["target_mhz"] < 1410
        and abs(status["clock_mhz"] - status["target_mhz"]) <= 20
    )


def test_a_change_of_the_slo_takes_effect_in_the_driver(agent, server, machine):
    agent.put("slo", ttft_ms=5000, itl_ms=500)
    send_many(server, 60, seed=12)
    assert wait_for(lambda: 0 < machine.locked_mhz() < 1410)
    agent.put("slo", itl_ms=0.01)  # cannot be kept: the fastest clock
    load = threading.Thread(target=send_many, args=(server, 120), kwargs={"seed": 13})
    load.start()
    try:
        assert wait_for(lambda: machine.locked_mhz() == 1410 or not load.is_alive())
        assert load.is_alive(), "the fastest clock was never set under load"
    finally:
        load.join()


def test_a_dry_run_acts_on_nothing(agent, server, machine):
    agent.put("dry-run", dry_run=True)
    assert wait_for(lambda: not machine.any_locked())
    calls = machine.set_calls()
    send_many(server, 40, seed=14)
    status = agent.status()
    assert status["dry_run"] is True
    assert status["target_mhz"] > 0  # what it would have asked for
    assert machine.set_calls() == calls
    agent.put("dry-run", dry_run=False)
    assert wait_for(machine.any_locked)


def test_a_killed_agent_leaves_the_engine_serving_at_default_clocks(agent, server, machine):
    send_many(server, 20, seed=15)
    assert wait_for(machine.any_locked)
    agent.end(signal.SIGKILL)
    assert wait_for(lambda: not machine.any_locked())
    send_many(server, 20, seed=16)
    assert not machine.any_locked()


def test_what_was_learned_is_there_after_a_restart(agent, server, folder, machine, daemon):
    send_many(server, 40, seed=17)
    assert agent.end() == 0
    assert not machine.any_locked()
    again = Agent(folder, machine, daemon)
    assert "predictor restored" in again.log.read_text()
    assert again.end() == 0
