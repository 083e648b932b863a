"""Attacks on the daemon of which each lasts a moment, again and again beside honest control steps.

That each is refused, reported or restored as it should be is held elsewhere in this folder.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.actuation.daemons import Daemon, run_to_end
from tests.actuation.driver import uuid_of
from tests.attack.clock_honesty import Attacker, HonestLoop, assert_stands
from tests.attack.test_clocks_clients import ODD_BODIES, ODD_NUMBERS, USERS, acquire
from voltana_actuatord.console import daemon_status
from voltana_actuatord.protocol import encode_command, receive

if TYPE_CHECKING:
    from collections.abc import Callable

ODD_MESSAGES = itertools.cycle(ODD_NUMBERS + ODD_BODIES)
THEIRS_MHZ = 900
PAUSE_S = 0.01

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")


@dataclass(frozen=True)
class Kind:
    """An attack.

    Attributes:
        point: Of the issue that asks for it.
        attack: One of it, given the daemon and its machine.
        uid: Who it is; None is root.
    """

    point: int
    attack: Callable[[Daemon, Any], None]
    uid: int | None = USERS[0]


def said(daemon: Daemon, *messages: bytes) -> None:
    """Send them on one connection, and read what comes."""
    with daemon.connect() as sock:
        sock.settimeout(1.0)
        for message in messages:
            sock.send(message)
            with contextlib.suppress(ConnectionError):
                receive(sock)


def odd_message(daemon: Daemon, _: Any) -> None:
    said(daemon, next(ODD_MESSAGES))


def descriptors(daemon: Daemon, _: Any) -> None:
    with daemon.connect() as sock, open(os.devnull, "rb") as null:  # noqa: PTH123
        for _ in range(20):
            socket.send_fds(sock, [b"VA\x01\x04"], [null.fileno()] * 50)
            sock.recv(65_536)


def hangs(daemon: Daemon, machine: Any) -> None:
    """A GPU whose driver does not answer is asked for, and comes back."""
    machine.fault(0, "F_SET", "K_HANG")
    said(daemon, acquire(devices=[uuid_of(0)]), encode_command(0, 1005.0, 1.0))
    time.sleep(0.1)
    machine.clear_faults()
    time.sleep(0.1)


def foreign_clock(daemon: Daemon, machine: Any) -> None:
    machine.lock_from_outside(0, THEIRS_MHZ)
    said(daemon, acquire(devices=[uuid_of(0)]))
    machine.set(0, "D_LOCK", 0)
    time.sleep(PAUSE_S)


def application_clock(daemon: Daemon, machine: Any) -> None:
    before = machine.get(0, "D_APP_MHZ")
    machine.set(0, "D_APP_MHZ", THEIRS_MHZ)
    said(daemon, acquire(devices=[uuid_of(0)]))
    machine.set(0, "D_APP_MHZ", before)
    time.sleep(PAUSE_S)


def power_cap(daemon: Daemon, machine: Any) -> None:
    before = machine.get(0, "D_CAP_MW")
    machine.set(0, "D_CAP_MW", 250_000)
    said(daemon, b"VA\x01\x04")
    machine.set(0, "D_CAP_MW", before)
    time.sleep(PAUSE_S)


def mig(daemon: Daemon, machine: Any) -> None:
    machine.set(0, "D_MIG", 1)
    said(daemon, acquire(devices=[uuid_of(0)]), encode_command(0, 1005.0, 1.0))
    machine.set(0, "D_MIG", 0)
    time.sleep(PAUSE_S)


def without_commands(daemon: Daemon, _: Any) -> None:
    said(daemon, acquire(devices=[uuid_of(0)]))
    time.sleep(PAUSE_S)


def idle(daemon: Daemon, _: Any) -> None:
    """As many connections as are let in, of which none says anything."""
    held = []
    with contextlib.suppress(OSError):
        for _ in range(64):
            held.append(daemon.connect())
            time.sleep(0.001)
    for sock in held:
        sock.close()


def second_daemon(daemon: Daemon, machine: Any) -> None:
    """The same configuration once more: the place is taken."""
    assert run_to_end(machine, daemon.config).returncode == 2


def marks_removed(daemon: Daemon, _: Any) -> None:
    for mark in daemon.journal.iterdir():
        if uuid_of(0) in mark.name:
            mark.unlink(missing_ok=True)
    time.sleep(PAUSE_S)


def without_a_gpu(daemon: Daemon, _: Any) -> None:
    """Of a rule that names none: tries all that it may not."""
    said(daemon, acquire(devices=[uuid_of(1)]), encode_command(0, 1005.0, 1.0), b"VA\x01\x05")
    time.sleep(PAUSE_S)


EXPORTER = USERS[1]
KINDS = {
    "odd messages": Kind(6, odd_message),
    "descriptors": Kind(6, descriptors),
    "a GPU that hangs": Kind(7, hangs, uid=None),
    "foreign clocks": Kind(8, foreign_clock, uid=None),
    "application clocks": Kind(8, application_clock, uid=None),
    "power caps": Kind(8, power_cap, uid=None),
    "MIG": Kind(8, mig, uid=None),
    "leases without commands": Kind(9, without_commands),
    "idle connections": Kind(9, idle),
    "a second daemon": Kind(10, second_daemon, uid=None),
    "marks that are removed": Kind(10, marks_removed, uid=None),
    "a user without a GPU": Kind(11, without_a_gpu, uid=EXPORTER),
}


@pytest.mark.parametrize("name", KINDS)
def test_honest_steps_stand_beside(name, machine, reachable):
    kind = KINDS[name]
    allow = (
        f"[[allow]]\nusers = [0, {USERS[0]}]\nmax_lease_s = 10.0\n"
        f"[[allow]]\nusers = [{EXPORTER}]\ngpus = []\n"
    )
    with (
        Daemon(reachable, machine, allow=allow, head='socket_mode = "0666"') as daemon,
        HonestLoop(daemon) as honest,
    ):
        worker = daemon.worker()
        assert_stands(honest, Attacker(lambda: kind.attack(daemon, machine), kind.uid))
        machine.clear_faults()  # an attacker is ended amid what it does
        machine.set(0, "D_MIG", 0)
        machine.set(0, "D_LOCK", 0)
        assert daemon_status(daemon.socket)["pid"] == daemon.worker() == worker
    assert machine.wait(lambda: not machine.any_locked(), 5.0)
