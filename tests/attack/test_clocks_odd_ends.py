"""Clients that go without an end: whatever they leave open, their clock is given back in time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

import pytest

from tests.actuation.driver import uuid_of
from tests.attack.clock_honesty import HonestLoop
from voltana_actuatord.protocol import Acquire, Kind, encode_acquire, encode_command, kind_of

MHZ = 1005.0
LEASE_S = 1.0
SLACK_S = 0.5
LAST = 2**63 - 1


def _nothing(_sock):
    """Stays, and says nothing more."""


def _half_closed(sock):
    sock.shutdown(socket.SHUT_WR)


def _deaf(sock):
    sock.shutdown(socket.SHUT_RD)


def _empty_message(sock):
    sock.send(b"")


def _never_reads(sock):
    """Commands until its own answers are in the way."""
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        for number in range(2, 100_000):
            sock.send(encode_command(number, MHZ, LEASE_S))


def _last_number(sock):
    """No step can follow."""
    sock.send(encode_command(LAST, MHZ, LEASE_S))


def _shortest_lease(sock):
    sock.send(encode_command(2, MHZ, 5e-324))


def _same_step_again(sock):
    for _ in range(50):
        with contextlib.suppress(OSError):
            sock.send(encode_command(1, MHZ, LEASE_S))
        time.sleep(0.02)


def _asks_for_another(sock):
    sock.send(encode_acquire(Acquire("y", (uuid_of(1),), LEASE_S)))


ENDS = {
    one.__name__.strip("_").replace("_", " "): one
    for one in (
        _nothing, _half_closed, _deaf, _empty_message, _never_reads, _last_number, _shortest_lease,
        _same_step_again, _asks_for_another,
    )
}  # fmt: skip


def locked_by(daemon, machine):
    """A connection that has locked the first GPU."""
    sock = daemon.connect()
    sock.settimeout(10.0)
    sock.send(encode_acquire(Acquire("x", (uuid_of(0),), LEASE_S)))
    assert kind_of(sock.recv(16_384)) is Kind.GRANTED
    sock.send(encode_command(1, MHZ, LEASE_S))
    assert machine.wait(lambda: machine.locked_mhz(0) == MHZ)
    return sock


def given_back(daemon, machine, since_s):
    """The clock is back in time, and its GPU is lent again."""
    assert machine.wait(lambda: not machine.locked_mhz(0), LEASE_S + 20.0)
    assert machine.unlocked_at_s(0) <= since_s + LEASE_S + SLACK_S
    with daemon.client(0) as again:
        assert again.reach(1200.0)


@pytest.mark.parametrize("how", ENDS)
def test_a_connection_that_stays_open_keeps_no_clock(how, machine, daemon):
    with HonestLoop(daemon) as honest, contextlib.closing(locked_by(daemon, machine)) as sock:
        ENDS[how](sock)
        given_back(daemon, machine, time.monotonic())
        assert honest.lost == 0


@pytest.mark.parametrize("hit", [signal.SIGKILL, signal.SIGSTOP])
def test_a_connection_that_a_child_has_as_well_keeps_no_clock(hit, machine, daemon):
    """Nothing closes when its owner dies; and one that is stopped says nothing."""
    with HonestLoop(daemon) as honest:
        sock = locked_by(daemon, machine)
        owners = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                signal.alarm(60)
                signal.pause()
                os._exit(0)
            owners.append(pid)
        sock.close()
        try:
            os.kill(owners[0], hit)
            given_back(daemon, machine, time.monotonic())
            assert honest.lost == 0
        finally:
            for pid in owners:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


@pytest.mark.parametrize("devices", [(0, 0), (0, 1, 0)])
def test_one_gpu_twice_in_a_lease_is_refused_or_lent_once(devices, machine, daemon):
    with daemon.connect() as sock:
        sock.settimeout(10.0)
        sock.send(encode_acquire(Acquire("x", tuple(map(uuid_of, devices)), LEASE_S)))
        with contextlib.suppress(OSError):
            if kind_of(sock.recv(16_384)) is Kind.GRANTED:
                sock.send(encode_command(1, MHZ, LEASE_S))
                sock.recv(16_384)
    assert machine.wait(lambda: not machine.any_locked(), LEASE_S + 20.0)
    with daemon.client(0) as again:
        assert again.reach(MHZ)
