"""A real Prometheus scrapes a rehearsed cluster: every query answers, and alerts fire on purpose.

Run by `make test-prometheus`. Three alerts are left to promtool, which fires all (test_alerts.py):
what no fault may bring about (VoltanaGuaranteeBroken), a model that is wrong for as long as it
looks back (VoltanaPredictorDrift), and a ring written over, for which an agent has to stand still
for longer than a window of these rules (VoltanaRecordsLost).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import threading
from pathlib import Path

import pytest

from tests.operations.rehearsed import WINDOW, asked, rehearsed
from tools.dashboard import queries
from tools.metrics_page import AGENT, DAEMON, ROUTER
from voltana.rehearsal.faults import _writers, kill
from voltana_actuatord.connecting import connect
from voltana_actuatord.console import daemon_status

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed (make installs it)"
    ),
]

ELSEWHERE = {
    "voltana_agent_predictor_drifts_total",  # where a policy's model watches for drift
    "voltana_router_choices_without_total",
    "voltana_router_deferred_total",
    "voltana_router_missing",
    "voltana_router_retries_total",
    "voltana_router_unattributed_energy_joules_total",
    "voltana_agent_guarantee_unlabelled_total",
}
"""Metrics that a cluster which is well need not tell."""


@pytest.fixture(scope="module")
def cluster():
    with (
        tempfile.TemporaryDirectory(prefix="vp-", dir="/dev/shm") as made,
        rehearsed(Path(made)) as found,
    ):
        found.begin_load(6, "team-a", 0.05)
        found.begin_load(3, "team-b", 0.1)
        yield found


def answered(query):
    return query.replace("$__rate_interval", WINDOW).replace("$backend", ".*")


def test_every_query_of_the_dashboard_answers(cluster):
    tenants = f"sum by (tenant) (rate(voltana_router_tenant_energy_joules_total[{WINDOW}])) > 0"
    assert cluster.until(lambda: len(cluster.values(tenants)) == 2, 120.0), "no joules of tenants"

    def silent():
        return [query for query in map(answered, queries()) if not cluster.values(query)]

    assert cluster.until(lambda: not silent(), 60.0), silent()
    assert not cluster.firing() & {
        "VoltanaLeaseLost",
        "VoltanaActuatorDown",
        "VoltanaTargetMissing",
    }
    by_role = f"sum by (role, source) (rate(voltana_agent_energy_joules_total[{WINDOW}]))"
    # Watts of three boards by the wall, on which a rehearsal of half its speed passes.
    drawn = f"10 < {by_role} < 1000"
    assert cluster.until(lambda: len(cluster.values(drawn)) == 2, 60.0), cluster.values(by_role)
    roles = [labels for labels, _ in cluster.values(by_role)]
    assert {labels["role"] for labels in roles} == {"prefill", "decode"}
    assert {labels["source"] for labels in roles} <= {"counter", "power"}


def test_every_metric_is_told_and_none_but_those_that_are_declared(cluster):
    known = {metric.name for metric in (*AGENT, *ROUTER, *DAEMON)}
    names = asked(f"{cluster.prometheus}/api/v1/label/__name__/values").decode()
    told = {
        re.sub(r"_(bucket|sum|count|created)$", "", n)
        for n in re.findall(r'"(voltana_\w+)"', names)
    }
    # prometheus_client tells when a counter began, under a name of its own.
    told = {name if name in known else f"{name}_total" for name in told}
    assert told <= known, told - known
    assert known - told <= ELSEWHERE, known - told


def test_tenants_joules_are_the_instances_joules(cluster):
    """What tenants and nobody have used grows as fast as what the agents count."""
    split = (
        "sum(voltana_router_tenant_energy_joules_total) "
        "+ (sum(voltana_router_unattributed_energy_joules_total) or vector(0))"
    )
    (_, tenants_j), (_, agents_j) = (
        cluster.values(query)[0] for query in (split, "sum(voltana_agent_energy_joules_total)")
    )
    assert 0.5 * agents_j <= tenants_j <= 1.02 * agents_j


def fires(cluster, *names, limit_s=60.0):
    """Each is waited for, since some end before others begin."""
    seen = set()

    def all_seen():
        seen.update(cluster.firing())
        return set(names) <= seen

    assert cluster.until(all_seen, limit_s), f"{set(names) - seen} did not fire"


def test_alerts_of_load_and_models_fire_on_purpose(cluster):
    """Thresholds that nothing keeps, readings that fail, an agent that stands still, a crowd."""
    machine, log = cluster.stage.machine, cluster.stage.logs / "agent-decode-0.log"
    for agent in (1, 2):
        cluster.tell_agent(agent, "/slo", {"itl_ms": 0.5})
    for reading in ("F_POWER", "F_ENERGY"):
        machine.fault(0, reading, "K_CODE", 999)
    fires(cluster, "VoltanaSloBurnFast", "VoltanaSloBurnSlow", "VoltanaUncertified")
    for agent in (1, 2):
        cluster.tell_agent(agent, "/slo", {"itl_ms": 65})
    signalled(log, signal.SIGSTOP)
    fires(cluster, "VoltanaRouterWithoutModels", "VoltanaEnergyUnknown")
    machine.clear_faults()
    signalled(log, signal.SIGCONT)
    with crowd(cluster):
        fires(cluster, "VoltanaRouterRefuses")


def test_alerts_of_clocks_and_processes_fire_on_purpose(cluster):
    """Another tool, resets that do nothing, a flooded log, one process killed after the other."""
    machine, logs = cluster.stage.machine, cluster.stage.logs
    assert cluster.until(lambda: not cluster.values("voltana_agent_healthy == 0"), 60.0)
    machine.lock_from_outside(2, 1200)
    fires(cluster, "VoltanaForeignClock", "VoltanaLeaseLost", "VoltanaLeasesLapse")
    machine.set(2, "D_LOCK", 0)
    assert cluster.until(lambda: not cluster.values("voltana_agent_healthy == 0"), 60.0)
    machine.fault(2, "F_RESET", "K_SILENT")
    cluster.tell_agent(2, "/dry-run", {"dry_run": True})
    fires(cluster, "VoltanaClocksLockedWithoutLease")
    machine.clear_faults()
    talk_nonsense(cluster.stage.socket)
    fires(cluster, "VoltanaLogLinesDropped")
    os.kill(daemon_status(cluster.stage.socket)["pid"], signal.SIGKILL)
    fires(cluster, "VoltanaActuatorRestarts")
    kill(logs / "decode-1.log")
    fires(cluster, "VoltanaServerUnavailable")
    kill(logs / "daemon.log")
    fires(cluster, "VoltanaActuatorDown")
    cluster.exporter.send_signal(signal.SIGKILL)
    fires(cluster, "VoltanaTargetMissing")


def signalled(log, number):
    """A signal to who writes a log."""
    for pid in _writers(log):
        os.kill(pid, number)


def talk_nonsense(path):
    """More lines for the daemon's log than it writes at once."""
    for _ in range(200):
        with contextlib.suppress(OSError), connect(str(path), 5.0) as sock:
            sock.send(b"nonsense")
            sock.recv(4096)


@contextlib.contextmanager
def crowd(cluster):
    """More requests at a time than the router takes."""
    stop = threading.Event()
    for _ in range(90):
        threading.Thread(target=burst, args=(cluster, stop), daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def burst(cluster, stop):
    while not stop.is_set():
        try:
            asked(
                cluster.company.url + "/generate",
                "POST",
                {"input_ids": [1] * 800, "sampling_params": {"max_new_tokens": 200}},
            )
        except OSError:
            stop.wait(0.05)
