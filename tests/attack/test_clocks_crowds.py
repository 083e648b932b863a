"""Crashes in a row, and users who keep their places busy: clocks come back, everybody gets in."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest

from tests.actuation.daemons import Daemon
from tests.actuation.driver import uuid_of
from tests.attack.clock_honesty import Attacker, HonestLoop
from tests.attack.test_clocks_clients import as_other_user_of
from voltana_actuatord.console import daemon_status
from voltana_actuatord.protocol import Kind, kind_of

MHZ = 1005.0
USERS = (12001, 12002, 12003)
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")

CRASHES = 8
"""More than the five after which systemd gives up, were it not told otherwise."""


@pytest.mark.parametrize("what", ["everything", "parent"])
def test_crashes_in_a_row_leave_no_clock_and_the_next_lease_is_had(what, machine, tmp_path):
    """Each while a clock is set, as soon as the one before is over."""
    with Daemon(tmp_path, machine, init=True) as daemon:
        for _ in range(CRASHES):
            with daemon.client(0, lease_s=5.0, patience_s=20.0) as client:
                assert client.reach(MHZ, 10.0)
                if what == "everything":
                    os.killpg(daemon.process.pid, signal.SIGKILL)
                else:
                    os.kill(daemon.process.pid, signal.SIGKILL)
                assert machine.wait(lambda: not machine.any_locked(), 20.0)
        assert len(daemon.starts) >= CRASHES
        with daemon.client(0, patience_s=20.0) as client:
            assert client.reach(MHZ, 10.0)


def chatter(daemon, count):
    """Connections that ask for something often enough never to be idle, and read the answers."""
    held = []

    def once():
        if len(held) < count:
            with contextlib.suppress(OSError):
                held.append(daemon.connect())
                held[-1].settimeout(0.05)
        for sock in list(held):
            try:
                sock.send(b"VA\x01\x04")
                sock.recv(65_536)
            except TimeoutError:
                continue
            except OSError:
                held.remove(sock)
                sock.close()
        time.sleep(0.02)

    return once


@root
def test_places_that_are_kept_busy_lock_neither_root_nor_another_user_out(machine, reachable):
    """They are never idle, and control nothing."""
    users = ", ".join(map(str, USERS))
    allow = f"[[allow]]\nusers = [0, {users}]\n"
    head = 'socket_mode = "0666"\nmax_connections = 16\nidle_s = 1.0'
    with Daemon(reachable, machine, allow=allow, head=head) as daemon, HonestLoop(daemon) as honest:
        crowd = [Attacker(chatter(daemon, 40), uid) for uid in USERS[:2]]
        with contextlib.ExitStack() as stack:
            for attacker in crowd:
                stack.callback(attacker.end)
                stack.enter_context(attacker.going())
            assert machine.wait(lambda: daemon_status(daemon.socket)["connections"] >= 15, 20.0)

            def third():
                with daemon.connect() as mine:
                    mine.send(b"VA\x01\x04")
                    return str(kind_of(mine.recv(65_536)).name)

            for _ in range(5):
                assert as_other_user_of(USERS[2], third) == Kind.STATUS.name
                assert daemon_status(daemon.socket)["pid"] == daemon.worker()
                with daemon.client(0, patience_s=5.0) as newcomer:  # root's own
                    assert newcomer.reach(MHZ, 5.0)
        assert honest.lost == 0


@root
def test_one_user_who_takes_every_gpu_for_a_moment_again_and_again_is_made_to_wait(
    machine, reachable
):
    """It takes leases and lets them go without one command, so that nobody else has the GPU."""
    allow = f"[[allow]]\nusers = [0, {USERS[0]}]\nmax_lease_s = 10.0\n"
    with Daemon(reachable, machine, allow=allow, head='socket_mode = "0666"') as daemon:

        def take():
            from voltana_actuatord.protocol import Acquire, encode_acquire

            with daemon.connect() as sock:
                sock.settimeout(1.0)
                sock.send(encode_acquire(Acquire("x", (uuid_of(0),), 10.0)))
                sock.recv(16_384)
                time.sleep(0.3)

        attacker = Attacker(take, USERS[0])
        try:
            with attacker.going():
                time.sleep(1.0)
                got = 0
                for _ in range(3):
                    with daemon.client(0, patience_s=15.0) as client:
                        got += client.reach(MHZ, 5.0)
                assert got == 3
        finally:
            attacker.end()
