"""The daemon's figures, as Prometheus reads them from a process without privilege."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.actuation.daemons import Daemon
from tests.actuation.driver import uuid_of
from voltana_actuatord.console import daemon_status
from voltana_actuatord.faults import LeaseRefusedError
from voltana_actuatord.metrics import command
from voltana_actuatord.metrics.exporter import MOST_OPEN, Exporter, of_daemon
from voltana_actuatord.metrics.of_daemon import METRICS


class Scraped:
    """An exporter in front of a daemon."""

    def __init__(self, socket_path):
        self.exporter = Exporter(("127.0.0.1", 0), of_daemon(str(socket_path)))
        threading.Thread(target=self.exporter.serve_forever, daemon=True).start()

    def get(self, path="/metrics", method="GET", **headers):
        client = http.client.HTTPConnection("127.0.0.1", self.exporter.port, timeout=10)
        client.request(method, path, headers=headers)
        answer = client.getresponse()
        body = answer.read().decode()
        client.close()
        return answer.status, body

    def figures(self):
        """By name and labels."""
        status, text = self.get()
        assert status == 200
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def until(self, condition, limit_s=15.0):
        ends_s = time.monotonic() + limit_s
        while not condition(found := self.figures()):
            assert time.monotonic() < ends_s, found
            time.sleep(0.2)
        return found

    def end(self):
        self.exporter.shutdown()
        self.exporter.server_close()


@pytest.fixture
def daemon(tmp_path, machine):
    with Daemon(tmp_path, machine) as running:
        yield running


@pytest.fixture
def scraped(daemon):
    made = Scraped(daemon.socket)
    yield made
    made.end()


def test_leases_marks_and_clocks_are_told_and_a_dead_daemon_too(daemon, scraped):
    uuid, named = uuid_of(0), "voltana_actuatord_"
    calm = scraped.until(lambda f: (named + "marks",) in f)
    assert calm[named + "up",] == 1.0
    assert calm[named + "marks",] == calm[named + "leased_gpus",] == 0.0
    assert calm[named + "worker_starts_total",] == 1.0
    with daemon.client(0) as client:
        clock_mhz = client.actuator.table()[0]
        assert client.reach(clock_mhz)
        stop = threading.Event()

        def step():
            while not stop.wait(0.2):
                client.set(clock_mhz)

        thread = threading.Thread(target=step)
        thread.start()
        try:
            busy = scraped.until(lambda f: f.get((named + "marks",)) == 1.0)
        finally:
            stop.set()
            thread.join()
        assert busy[named + "gpus", "lent"] == busy[named + "leases", "active"] == 1.0
        assert busy[named + "leased_gpus",] == 1.0
        assert busy[named + "gpu_target_clock_hertz", uuid] == 1e6 * clock_mhz
        assert busy[named + "gpu_clock_hertz", uuid] == 1e6 * clock_mhz
        lapsed = scraped.until(lambda f: f[named + "lease_events_total", "lapsed"] == 1.0)
        assert lapsed[named + "gpus", "lent"] == 0.0
    scraped.until(lambda f: f[named + "marks",] == 0.0)
    known = {metric.name for metric in METRICS}
    assert {key[0] for key in busy} <= known
    daemon.stop()
    gone = scraped.until(lambda f: f[named + "up",] == 0.0)
    assert len(gone) == 1
    assert scraped.get("/health")[0] == 503


def test_a_foreign_clock_and_a_killed_worker_are_seen(daemon, scraped):
    named = "voltana_actuatord_"
    daemon.machine.lock_from_outside(0, 900)
    with pytest.raises(Exception, match="another tool"):
        daemon.client(0, patience_s=0.0)
    seen = scraped.until(lambda f: f.get((named + "foreign_clocks",)) == 1.0)
    assert seen[named + "gpu_foreign_clock", uuid_of(0)] == 1.0
    assert seen[named + "lease_events_total", "refused"] >= 1.0
    os.kill(daemon.worker(), 9)
    scraped.until(lambda f: f.get((named + "worker_starts_total",)) == 2.0)


def test_a_clock_that_another_tool_sets_during_a_lease_stays_seen(daemon, scraped):
    """It ends the lease, and what is given back after that says nothing about the other tool."""
    with daemon.client(0) as client:
        assert client.reach(client.actuator.table()[0])
        daemon.machine.lock_from_outside(0, 1200)
        ends_s = time.monotonic() + 10.0
        while "another tool" not in client.actuator.status().error:
            assert time.monotonic() < ends_s
            client.set(client.actuator.table()[0])
            time.sleep(0.05)
    named = ("voltana_actuatord_foreign_clocks",)
    scraped.until(lambda f: f.get(named) == 1.0)
    time.sleep(1.5)
    assert scraped.figures()[named] == 1.0


def test_it_tells_figures_alone_under_its_own_name_alone(daemon, scraped):
    assert scraped.get("/health")[0] == 200
    assert scraped.get("/status")[0] == 404
    assert scraped.get(method="POST")[0] == 501
    assert scraped.get(Host="evil.example")[0] == 403
    assert scraped.get(Origin="http://evil.example")[0] == 403
    assert scraped.get(Host="[::1]:9841")[0] == 200


def test_crowds_and_silence_hold_up_neither_it_nor_the_daemon(daemon, scraped):
    held = [socket.create_connection(("127.0.0.1", scraped.exporter.port)) for _ in range(100)]
    try:
        with daemon.client(0) as client:
            assert client.reach(client.actuator.table()[0])
    finally:
        for one in held:
            one.close()
    ends_s = time.monotonic() + 10.0
    while True:
        try:
            assert scraped.get()[0] == 200
            break
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < ends_s
            time.sleep(0.1)
    assert scraped.exporter._places._value <= MOST_OPEN


def test_scrapes_ask_the_daemon_once_a_second():
    asked = []

    class Counting(Scraped):
        def __init__(self):
            from voltana_actuatord.metrics.exporter import Figures

            self.exporter = Exporter(
                ("127.0.0.1", 0), Figures(lambda: asked.append(1) or {"connections": 1})
            )
            threading.Thread(target=self.exporter.serve_forever, daemon=True).start()

    made, began_s = Counting(), time.monotonic()
    try:
        for _ in range(50):
            assert made.get()[0] == 200
    finally:
        made.end()
    assert 1 <= len(asked) <= 2 + (time.monotonic() - began_s)


def test_root_is_refused_and_a_taken_port_is_one_line():
    run = "import sys; from voltana_actuatord.entry import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "metrics"]
    if os.geteuid() == 0:
        refused = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert refused.returncode == 2
        assert "must not run as root" in refused.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*command, "--as-root", "--port", port],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "Give another --host or --port" in done.stderr


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_a_port_that_is_none_is_named(port, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--as-root", f"--port={port}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"argument --port: {port!r} is not allowed: must be 0 to 65535" in said


def test_a_rule_without_gpus_lets_one_ask_and_nothing_else(tmp_path, machine):
    rule = f"[[allow]]\nusers = [{os.geteuid()}]\ngpus = []\n"
    with Daemon(tmp_path, machine, allow=rule) as daemon:
        with pytest.raises(LeaseRefusedError, match="may not control"):
            daemon.client(0, patience_s=0.0)
        assert daemon_status(daemon.socket)["leases"] == []
        assert not machine.any_locked()
