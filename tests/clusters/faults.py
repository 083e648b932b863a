"""What must hold when a part of a launched cluster is killed under load, whichever its engine is.

The cluster has one prefill and two decode servers, on GPUs 0, 1 and 2 of a fake machine.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from tests.clusters.calls import wait_for
from tests.clusters.launched import STOP_TIMEOUT_S

if TYPE_CHECKING:
    from tests.actuation.daemons import Daemon
    from tests.actuation.driver import Machine
    from tests.clusters.launched import Launched

NAMES = ("prefill-0", "decode-0", "decode-1")


def kill_an_agent(cluster: Launched, machine: Machine) -> None:
    """It costs its clock for a moment, and no request."""
    with cluster.traffic() as traffic:
        assert machine.wait(lambda: machine.locked_mhz(1), cluster.patience_s)
        killed_s = time.monotonic()
        cluster.kill("agent-decode-0")
        assert machine.wait(lambda: machine.unlocked_at_s(1) > killed_s, cluster.patience_s)
        assert traffic.completes_from(killed_s + 1, 10)
        assert machine.wait(lambda: machine.locked_mhz(1), cluster.patience_s), (
            "the next agent took the lease"
        )
    assert traffic.lost == []
    assert traffic.refused == []
    assert "agent-decode-0 ended by itself (signal SIGKILL)" in cluster.said()
    assert wait_for(lambda: "agent-decode-0 ready again" in cluster.said(), cluster.patience_s)
    cluster.well("decode-0")


def kill_the_router(cluster: Launched) -> None:
    """It is back, its clients were told, and nothing else was touched."""
    with cluster.traffic() as traffic:
        assert traffic.completes_from(0.0, 5)
        cluster.kill("router")
        killed_s = time.monotonic()
        assert traffic.completes_from(killed_s + 1, 20)
    assert traffic.lost == []
    assert traffic.refused, "connections that broke, and those refused until it was back"
    said = cluster.said()
    assert "router ended by itself (signal SIGKILL)" in said
    assert "starting it again in 1 s" in said
    assert wait_for(lambda: "router       ready again" in cluster.said(), cluster.patience_s)
    for name in NAMES:
        cluster.well(name)


def kill_the_daemon(cluster: Launched, machine: Machine, daemon: Daemon) -> None:
    """It costs clocks for a moment, and no request."""
    with cluster.traffic() as traffic:
        assert machine.wait(lambda: machine.locked_mhz(2), cluster.patience_s)
        starts, worker = len(daemon.starts), daemon.worker()
        killed_s = time.monotonic()  # before: the GPU's process resets it at once
        os.kill(daemon.process.pid, signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        assert machine.wait(lambda: machine.unlocked_at_s(2) > killed_s, cluster.patience_s)
        assert traffic.completes_from(killed_s + 1, 10)
        assert machine.wait(lambda: machine.locked_mhz(2), cluster.patience_s), (
            "the agent took its lease again"
        )
    assert len(daemon.starts) > starts
    assert traffic.lost == []
    assert traffic.refused == []


def kill_a_decode_server(cluster: Launched, machine: Machine) -> None:
    """It is left out; at most what it had in hand is refused."""
    with cluster.traffic() as traffic:
        assert traffic.completes_from(0.0, 10)
        cluster.kill("decode-1")
        killed_s = time.monotonic()
        assert traffic.completes_from(killed_s + 1, 20)
    assert traffic.lost == []
    assert len(traffic.refused) <= traffic.clients, "at most what decode-1 had in hand"
    assert wait_for(lambda: "decode-1 ended by itself" in cluster.said(), cluster.patience_s)
    assert machine.wait(lambda: machine.locked_mhz(2) in {0, 210}, cluster.patience_s), (
        "nothing runs there: default or lowest clock"
    )


def kill_the_prefill_server(cluster: Launched, machine: Machine) -> None:
    """Without the only one everything ends, clients are told, and no clock stays."""
    with cluster.traffic() as traffic:
        assert traffic.completes_from(0.0, 5)
        cluster.processes()
        cluster.kill("prefill-0")
        assert cluster.process.wait(max(STOP_TIMEOUT_S, cluster.patience_s)) == 1
    assert traffic.lost == []
    assert traffic.refused, "clients were told"
    assert "prefill-0 ended by itself (signal SIGKILL)" in cluster.said()
    assert cluster.survivors() == []
    assert machine.wait(lambda: not machine.any_locked(), cluster.patience_s)
