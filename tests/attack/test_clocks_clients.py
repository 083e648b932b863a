"""What clients may send and hold: numbers, floods, places, leases that prove nothing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from pathlib import Path

import pytest

from tests.actuation.daemons import Daemon
from tests.actuation.driver import uuid_of
from tests.actuation.test_security import as_other_user
from tests.attack.clock_honesty import Attacker, HonestLoop, assert_stands, assert_unharmed
from voltana_actuatord.console import daemon_status
from voltana_actuatord.protocol import (
    Acquire,
    Kind,
    ProtocolError,
    decode_granted,
    decode_json,
    encode_acquire,
    encode_command,
    kind_of,
    receive,
)

MHZ = 1005.0
USERS = (12001, 12002, 12003)
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")


def acquire(**body):
    whole = {"domain": "x", "devices": [uuid_of(0)], "lease_s": 1.0} | body
    return b"VA\x01\x01" + json.dumps(whole).encode()


BIG = "9" * 400
RAW = b'VA\x01\x01{"domain":"x","devices":["%s"],"lease_s":%s}'
ODD_NUMBERS = [
    RAW % (uuid_of(0).encode(), number.encode())
    for number in (BIG, f"-{BIG}", f"{BIG}.0", "1e999", "-1e999", "NaN", "Infinity", "9" * 5000)
]
ODD_BODIES = [
    acquire(domain="x" * 65),
    acquire(domain="\x00"),
    acquire(domain=["x"]),
    acquire(devices=[[]]),
    acquire(devices=[{"a": 1}]),
    acquire(devices=[None]),
    acquire(devices=[uuid_of(0) * 10]),
    acquire(devices=["../../etc"]),
    acquire(devices=[10**300]),
    acquire(lease_s=True),
    acquire(lease_s="1"),
    b'VA\x01\x01{"domain":"x","domain":"y","devices":[],"lease_s":1}',
    b"VA\x01\x01" + b'{"a":' * 3000,
    b"VA\x01\x01" + b"[" * 15_000,
    b"VA\x01\x01" + "é".encode("utf-16"),
    b"VA\x01\x02" + struct.pack("<Qdd", 2**64 - 1, 1e308, 1e-308),
    b"VA\x01\x02" + struct.pack("<Qdd", 0, float("nan"), float("inf")),
    b"VA\x01\x05" + b"x" * 16_000,
]


@pytest.mark.parametrize("data", ODD_NUMBERS + ODD_BODIES, ids=range(26))
def test_one_message_ends_its_own_connection_at_most(data, machine, daemon):
    worker = daemon.worker()
    with HonestLoop(daemon) as honest:
        for _ in range(3):
            with daemon.connect() as sock:
                sock.send(data)
                with contextlib.suppress(ConnectionError):
                    receive(sock)
        assert honest.times_s(0.2)
        assert honest.lost == 0
    assert daemon.worker() == worker
    assert not machine.locked_mhz(0)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"table_mhz": [], "lease_s": 1},
        {"table_mhz": [1.0, True], "lease_s": 1},
        {"table_mhz": [1e300], "lease_s": 1},
        {"table_mhz": ["1"], "lease_s": 1},
        {"table_mhz": [1.0], "lease_s": -1},
        {"table_mhz": [1.0], "lease_s": None},
        {"table_mhz": {"1": 2}, "lease_s": 1},
    ],
)
def test_a_lying_daemon_is_refused_by_the_client(body):
    with pytest.raises(ProtocolError, match="GRANTED"):
        decode_granted(body)


def test_a_number_of_many_digits_is_none():
    with pytest.raises(ProtocolError, match="not JSON"):
        decode_json(b"VA\x01\x01" + f'{{"lease_s": {BIG}}}'.encode())


def test_descriptors_that_are_sent_along_are_not_kept(machine, daemon):
    worker = daemon.worker()
    before = len(list(Path(f"/proc/{worker}/fd").iterdir()))
    with daemon.connect() as sock, Path("/dev/null").open() as null:
        for _ in range(200):
            socket.send_fds(sock, [b"VA\x01\x04"], [null.fileno()] * 50)
            assert sock.recv(16_384)
        assert len(list(Path(f"/proc/{worker}/fd").iterdir())) <= before + 2


# --- places


def stay_connected(daemon, uid, count, seconds):
    """Fork a process of another user that opens connections and holds them."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            held = []
            ends_s = time.monotonic() + seconds
            while time.monotonic() < ends_s:
                if len(held) < count:
                    with contextlib.suppress(OSError):
                        held.append(daemon.connect())
                time.sleep(0.001)
        finally:
            os._exit(0)
    return child


@root
def test_listed_users_who_take_every_place_lock_nobody_out(machine, reachable):
    users = ", ".join(map(str, USERS))
    allow = f"[[allow]]\nusers = [{users}]\ngpus = ['{uuid_of(0)}']\n[[allow]]\nusers = [0]\n"
    head = 'socket_mode = "0666"\nmax_connections = 16'
    with Daemon(reachable, machine, allow=allow, head=head) as daemon, HonestLoop(daemon) as honest:
        quiet_s = honest.times_s(0.4)
        held = [stay_connected(daemon, uid, 40, 4.0) for uid in USERS[:2]]
        try:
            assert machine.wait(lambda: daemon_status(daemon.socket)["connections"] >= 16)
            attacked_s = honest.times_s(0.4)
            assert daemon_status(daemon.socket)["pid"]  # root has a place
            third = os.fork()  # and so has a user who holds none
            if third == 0:
                os._exit(0 if _status_as(daemon, USERS[2]) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(third, 0)[1]) == 0
        finally:
            for child in held:
                os.waitpid(child, 0)
        assert_unharmed(honest, quiet_s, attacked_s)


def _status_as(daemon, uid):
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        return daemon_status(daemon.socket)["pid"]
    except Exception:  # noqa: BLE001  (whatever it is, it is a refusal)
        return 0


def test_idle_connections_are_closed(machine, tmp_path):
    with Daemon(tmp_path, machine, head="idle_s = 1.0") as daemon, HonestLoop(daemon) as honest:
        with daemon.connect() as idle:
            assert b"idle for too long" in idle.recv(16_384)
        assert honest.times_s(0.5)
        assert honest.lost == 0


def test_a_client_that_never_commands_does_not_hold_a_gpu(machine, daemon):
    def hold_on():
        sock = daemon.connect()
        sock.send(encode_acquire(Acquire("x", (uuid_of(0),), 10.0)))
        return sock, kind_of(sock.recv(16_384)) is Kind.GRANTED

    with HonestLoop(daemon) as honest:
        sock, granted = hold_on()
        assert granted
        ends_s, refused = time.monotonic() + 12.0, False
        while time.monotonic() < ends_s and not refused:
            time.sleep(0.5)
            sock.close()
            sock, granted = hold_on()
            refused = not granted
        assert refused  # and the GPU is free for somebody who controls it
        sock.close()
        assert honest.lost == 0


def test_a_client_that_comes_and_goes_is_not_punished(machine, daemon):
    for _ in range(10):
        daemon.client(0, patience_s=0.2).actuator.close()
    with daemon.client(0) as client:
        assert client.reach(MHZ)


@root
def test_another_user_gets_the_gpu_that_one_held_for_nothing(machine, reachable):
    allow = f"[[allow]]\nusers = [0, {USERS[0]}]\n"
    with (
        Daemon(reachable, machine, allow=allow, head='socket_mode = "0666"') as daemon,
        daemon.connect() as sock,
    ):
        sock.send(encode_acquire(Acquire("x", (uuid_of(0),), 10.0)))
        assert kind_of(sock.recv(16_384)) is Kind.GRANTED

        def take():
            ends_s = time.monotonic() + 5.0
            while time.monotonic() < ends_s:
                with daemon.connect() as mine:
                    mine.send(encode_acquire(Acquire("y", (uuid_of(0),), 1.0)))
                    if kind_of(mine.recv(16_384)) is Kind.GRANTED:
                        mine.send(encode_command(0, MHZ, 1.0))
                        return str(kind_of(mine.recv(16_384)).name)
                time.sleep(0.05)
            return "never"

        assert as_other_user_of(USERS[0], take) == "ACK"


def as_other_user_of(uid, action):
    from tests.actuation import test_security

    before, test_security.OTHER_UID = test_security.OTHER_UID, uid
    try:
        return as_other_user(action)
    finally:
        test_security.OTHER_UID = before


# --- floods


def flood_of(daemon, *messages):
    """Send messages without reading answers, and connect again when that is ended."""
    kept = []

    def attack():
        if not kept:
            kept.append(daemon.connect())
            kept[0].setblocking(False)
        try:
            for _ in range(200):
                for message in messages:
                    kept[0].send(message)
        except BlockingIOError:
            pass
        except OSError:
            kept.pop().close()

    return attack


FLOODS = {
    "status": [b"VA\x01\x04"],
    "acquire": [acquire(devices=[uuid_of(1)])],
    "long": [acquire(devices=["GPU-" + "0" * 90] * 64)],
    "release": [b"VA\x01\x03", b"VA\x01\x05"],
}


@root
@pytest.mark.parametrize("messages", FLOODS.values(), ids=FLOODS)
def test_a_flood_from_one_beside_an_honest_one(messages, machine, reachable):
    allow = f"[[allow]]\nusers = [0, {USERS[0]}]\nmax_lease_s = 10.0\n"
    with (
        Daemon(reachable, machine, allow=allow, head='socket_mode = "0666"') as daemon,
        HonestLoop(daemon) as honest,
    ):
        assert_stands(honest, Attacker(flood_of(daemon, *messages), USERS[0]))
        assert daemon_status(daemon.socket)["pid"] == daemon.worker()


def test_who_polls_the_status_without_end_is_answered_in_turns(machine, daemon):
    """One that reads its answers is no attacker: it is served, as fast as its share allows."""
    with daemon.connect() as polling:
        for _ in range(1500):
            polling.send(b"VA\x01\x04")
            assert kind_of(polling.recv(65_536)) is Kind.STATUS


def test_one_that_is_made_to_wait_and_goes_gives_its_gpu_back_at_once(machine, daemon):
    """It holds a lease, asks for more than its share, and is gone while nobody listens to it."""
    client = daemon.client(0, lease_s=10.0)
    assert client.reach(MHZ)
    sock = client.actuator._sock
    with contextlib.suppress(BlockingIOError):
        for _ in range(2000):
            sock.send(b"VA\x01\x04")
    time.sleep(0.05)
    gone_s = time.monotonic()
    sock.close()
    client.actuator._sock = None
    assert machine.wait(lambda: not machine.any_locked(), 3.0)
    assert machine.unlocked_at_s(0) < gone_s + 1.0
    client.actuator.close()


def knock(path):
    """Connect and leave at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.setblocking(False)
        sock.connect(str(path))


@root
@pytest.mark.parametrize("knockers", [1, 3])
def test_users_in_no_rule_who_knock_without_end_hold_up_nobody(knockers, machine, reachable):
    with (
        Daemon(reachable, machine, head='socket_mode = "0666"') as daemon,
        HonestLoop(daemon) as honest,
    ):
        crowd = [Attacker(lambda: knock(daemon.socket), USERS[0] + i) for i in range(knockers)]
        assert_stands(honest, *crowd, meanwhile=lambda: assert_newcomers_get_in(daemon))
        refusals = daemon.log.read_text().count("is in no [[allow]] rule")
        assert knockers <= refusals <= 3 * knockers


def assert_newcomers_get_in(daemon):
    """An operator asks, and another client takes a lease, amid the attack."""
    assert daemon_status(daemon.socket)["pid"] == daemon.worker()
    with daemon.client(0, patience_s=0.0) as newcomer:
        assert newcomer.reach(MHZ, 2.0)
