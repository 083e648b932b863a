"""Hosts that misbehave: logs, disks, signals, /proc, and messages at the edge of the protocol."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.actuation.daemons import DAEMON, Daemon
from tests.actuation.driver import uuid_of
from tests.attack.clock_honesty import Attacker, HonestLoop, assert_stands
from tests.attack.test_clocks_restoring import BOUND_S, LEASE_S, STARVED_S, full_pipe
from voltana_actuatord.daemon.open_gpus import OpenGpus
from voltana_actuatord.daemon.parentlink import ParentLink
from voltana_actuatord.protocol import ProtocolError, decode_json, receive

__all__ = ["full_pipe"]

MHZ = 1005.0
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.mark.parametrize("victims", ["worker", "worker and holder"])
def test_a_full_log_and_a_worker_that_is_stopped(victims, machine, tmp_path, full_pipe):
    with Daemon(tmp_path, machine, stderr=full_pipe) as daemon:
        client = daemon.client(0, lease_s=LEASE_S)
        assert client.reach(MHZ)
        stopped_s = time.monotonic()
        for pid in [daemon.worker(), *(daemon.holders() if "holder" in victims else [])]:
            os.kill(pid, signal.SIGSTOP)
        assert machine.wait(lambda: not machine.any_locked(), 4.0)
        assert machine.unlocked_at_s(0) < stopped_s + BOUND_S + STARVED_S
        daemon.wait_ready()
        client.actuator.close()


@pytest.mark.parametrize("how", ["full socket", "reader gone", "/dev/full"])
def test_other_logs_that_take_nothing(how, machine, tmp_path):
    """A socket is what systemd gives as stderr."""
    ours, theirs = socket.socketpair()
    full = open("/dev/full", "wb")  # noqa: PTH123, SIM115
    if how == "full socket":
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                theirs.send(b"x" * 4096)
        theirs.setblocking(True)
    elif how == "reader gone":
        ours.close()
    handle = full.fileno() if how == "/dev/full" else theirs.fileno()
    with Daemon(tmp_path, machine, stderr=handle) as daemon:
        client = daemon.client(0, lease_s=LEASE_S)
        assert client.reach(MHZ)
        hit_s = time.monotonic()
        os.kill(daemon.worker(), signal.SIGKILL)
        assert machine.wait(lambda: not machine.any_locked(), 4.0)
        assert machine.unlocked_at_s(0) < hit_s + BOUND_S + STARVED_S
        client.actuator.close()
        with daemon.client(0) as again:
            assert again.reach(MHZ)
    ours.close()
    theirs.close()
    full.close()


def limit_files(daemon, size):
    """No file may grow beyond a size, as on a disk that is full; what was is returned."""
    before = None
    for pid in (daemon.process.pid, *daemon.holders()):
        found = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, found[1]))
        before = before or found[0]
    return before


@pytest.mark.parametrize("room", [0, 20])
def test_a_disk_without_room_in_the_moment_of_marking_locks_nothing(room, machine, daemon):
    with daemon.client(0) as client:
        before = limit_files(daemon, room)
        client.set(MHZ)
        assert machine.wait(lambda: client.actuator.status().error)
        assert not machine.set_calls()
        assert not list(daemon.journal.glob("*.locked"))
    limit_files(daemon, before)
    with daemon.client(0, patience_s=4.0) as again:
        assert again.reach(MHZ)


def test_a_disk_that_fills_up_during_a_lease_keeps_no_clock(machine, daemon):
    with daemon.client(0, 1) as client:
        assert client.reach(MHZ)
        limit_files(daemon, 0)
        assert client.reach(1200.0)
    assert machine.wait(lambda: not machine.any_locked(), 1.0)
    assert machine.wait(lambda: not list(daemon.journal.glob("*.locked")), 2.0)


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT"])
def test_a_storm_of_signals_in_slow_resets(name, make_machine, tmp_path):
    machine = make_machine(D_RESET_US=80_000)
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    client = daemon.client(0, 1)
    assert client.reach(MHZ)
    client.actuator.close()
    hit_s = time.monotonic()
    # Its end has no promise of its own but that it comes; the storm goes on until then.
    while daemon.process.poll() is None and time.monotonic() < hit_s + 60.0:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemon.process.pid, signal.Signals[f"SIG{name}"])
        time.sleep(0.001)
    daemon.process.kill()  # one that did not end is no other test's
    assert daemon.process.wait() == 0, daemon.log.read_text()
    assert not machine.any_locked()
    assert max(map(machine.unlocked_at_s, range(2))) < hit_s + 0.5 + STARVED_S
    daemon.stop()


@root
def test_a_host_that_hides_proc(machine, tmp_path):
    done = subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("no mount namespace may be made here")
    daemon = Daemon(tmp_path, machine, start=False)
    program = (
        f"mount -t tmpfs none /proc && exec {sys.executable} -m {DAEMON} --config {daemon.config}"
    )
    with daemon.log.open("ab") as log:
        daemon.process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", program],
            env=machine.environment(),
            stderr=log,
            start_new_session=True,
        )
    with daemon, daemon.client(0, lease_s=1.0) as client:
        assert client.reach(MHZ)
        (worker,) = filter(None, [daemon.worker()])
        os.kill(worker, signal.SIGKILL)
        assert machine.wait(lambda: not machine.any_locked(), 1.5)


RAW = '{"domain":"x","devices":["' + uuid_of(0) + '"],"lease_s":%s}'
ODD = [
    RAW % "-0.0",
    RAW % "1e308",
    RAW % "-1e308",
    RAW % "true",
    RAW % '"nan"',
    RAW % ("[" * 5000 + "]" * 5000),
    RAW % ('{"a":' * 2000 + "1" + "}" * 2000),
    RAW % ("0." + "0" * 14_000 + "1"),
    RAW % '1,"lease_s":2',
    RAW % '1,"devices":["GPU-0"]',
    RAW % "1" + "\0",
    RAW.replace('"x"', '"x\\u0000"') % "1",
    RAW.replace('"x"', '"\\ud800"') % "1",
    RAW.replace("GPU-", "GPU-\\u0000") % "1",
    RAW.replace("GPU-", "GPU-\\ud800") % "1",
    RAW.replace("GPU-", "GPU-/../") % "1",
    RAW.replace('"x"', '"x' + "y" * 20_000 + '"') % "1",
]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_edges_of_the_protocol(text, machine, daemon):
    worker = daemon.worker()
    with daemon.connect() as sock:
        sock.send(b"VA\x01\x01" + text.encode())
        with contextlib.suppress(ConnectionError):
            answer = receive(sock)
            if answer[3:4] == b"\x40":  # a lease that is long is a lease, and a bounded one
                assert json.loads(answer[4:])["lease_s"] <= 10.0
    with daemon.connect() as sock, contextlib.suppress(OSError):
        sock.send(b"x" * 10_000_000)  # no datagram is that long
    with daemon.client(1) as client:
        assert client.reach(MHZ)
    assert daemon.worker() == worker
    assert not machine.locked_mhz(0)


@pytest.mark.parametrize("body", ['{"a":1,"a":2}', '{"a":{"b":1,"b":1}}', '{"a":1,"\\u0061":1}'])
def test_a_name_that_is_there_twice_is_no_object_of_this_protocol(body):
    with pytest.raises(ProtocolError, match="not JSON"):
        decode_json(b"VA\x01\x44" + body.encode())


def test_a_parent_that_did_not_hear_is_asked_again():
    """It was stopped, and the link to it is full: the GPU must not be waited for for ever."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = ParentLink(theirs)
    while link.tell("alive"):
        pass
    assert not link.gone
    gpus = OpenGpus(link, lambda *_: None, lambda *_: None)
    gpus.examine([uuid_of(0)])
    ours.settimeout(0.1)
    with contextlib.suppress(TimeoutError):
        while ours.recv(1024) == b"alive":
            pass
    gpus.catch_up()
    assert ours.recv(1024) == f"open {uuid_of(0)}".encode()
    ours.close()
    theirs.close()


@root
@pytest.mark.parametrize("message", [b"VA\x01\x02" + bytes(24), b"nonsense", b""])
def test_a_listed_user_who_breaks_the_protocol_and_comes_again(message, machine, reachable):
    allow = "[[allow]]\nusers = [0, 12001]\nmax_lease_s = 10.0\n"

    def attack():
        with daemon.connect() as sock:
            sock.send(message)

    with (
        Daemon(reachable, machine, allow=allow, head='socket_mode = "0666"') as daemon,
        HonestLoop(daemon) as honest,
    ):
        assert_stands(honest, Attacker(attack, 12001))
