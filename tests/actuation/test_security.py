"""What an ill-behaved or unauthorised program can do to the daemon: nothing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import stat
import struct
import time
from pathlib import Path

import pytest

from tests.actuation.daemons import Daemon
from tests.actuation.driver import uuid_of
from voltana_actuatord.daemon.privileges import CAP_SYS_ADMIN, capabilities
from voltana_actuatord.faults import LeaseRefusedError
from voltana_actuatord.protocol import MAX_BYTES, Kind, encode_command, encode_json, receive

OTHER_UID = 65534
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


def ask(daemon, data):
    """Send one message on a connection of its own; the answer, or b"" if it was closed."""
    with daemon.connect() as sock:
        with contextlib.suppress(OSError):
            sock.send(data)
        try:
            return receive(sock)
        except ConnectionError:
            return b""


def _text(daemon, data):
    return ask(daemon, data)[4:].decode()


def as_other_user(action):
    """Run `action` in a child of another user; its text comes back."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(OTHER_UID, OTHER_UID, OTHER_UID)
            os.setresuid(OTHER_UID, OTHER_UID, OTHER_UID)
            try:
                text = action()
            except OSError as error:
                text = f"{type(error).__name__}: {error}"
            os.write(writer, text.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


@root
def test_the_sockets_mode_keeps_other_users_out(machine, reachable):
    with Daemon(reachable, machine, head='socket_mode = "0600"') as daemon:
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o600
        assert "PermissionError" in as_other_user(lambda: str(daemon.connect()))


@root
def test_the_sockets_group_is_set(machine, tmp_path):
    with Daemon(tmp_path, machine, head="socket_group = 12345") as daemon:
        assert daemon.socket.stat().st_gid == 12345
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660


@root
def test_a_user_in_no_rule_is_refused_by_the_kernels_word(machine, reachable):
    with Daemon(reachable, machine, head='socket_mode = "0666"') as daemon:
        acquire = encode_json(
            Kind.ACQUIRE, {"domain": "x", "devices": [uuid_of(0)], "lease_s": 1.0}
        )
        answer = as_other_user(lambda: _text(daemon, acquire))
        assert f"uid {OTHER_UID} is in no [[allow]] rule" in answer
        assert not machine.set_calls()


@root
def test_a_user_gets_only_the_gpus_of_its_rule_and_no_operators_rights(machine, reachable):
    allow = (
        f"[[allow]]\nusers = [{OTHER_UID}]\ngpus = ['{uuid_of(1)}']\n"
        "[[allow]]\nusers = [0]\nmax_lease_s = 10.0\n"
    )
    with Daemon(reachable, machine, head='socket_mode = "0666"', allow=allow) as daemon:
        for devices, expected in (
            ([uuid_of(0)], f"may not control {uuid_of(0)}"),
            ([uuid_of(1)], "table_mhz"),
        ):
            acquire = encode_json(Kind.ACQUIRE, {"domain": "x", "devices": devices, "lease_s": 1.0})
            assert expected in as_other_user(lambda a=acquire: _text(daemon, a))
        with daemon.client(0, lease_s=10.0) as client:
            client.set(1005.0)
            assert machine.wait(lambda: machine.locked_mhz() == 1005)
            answer = as_other_user(lambda: _text(daemon, b"VA\x01\x05"))
            assert json.loads(answer) == {"devices": []}
            time.sleep(0.1)
            assert machine.locked_mhz() == 1005


def test_gpus_outside_the_rule_are_refused(machine, tmp_path):
    allow = f"[[allow]]\nusers = [{os.geteuid()}]\ngpus = ['{uuid_of(1)}']\n"
    with Daemon(tmp_path, machine, allow=allow) as daemon:
        for devices in ((0,), (0, 1)):
            with pytest.raises(LeaseRefusedError, match=r"may not control GPU-"):
                daemon.client(*devices, patience_s=0.0)
        daemon.client(1).actuator.close()


def test_a_groups_rule_admits_its_members(machine, tmp_path):
    allow = f"[[allow]]\ngroups = [{os.getegid()}]\n"
    with Daemon(tmp_path, machine, allow=allow) as daemon, daemon.client() as client:
        client.set(1005.0)
        assert machine.wait(lambda: machine.locked_mhz() == 1005)


@pytest.mark.skipif(not capabilities() >> CAP_SYS_ADMIN & 1, reason="needs root's capabilities")
def test_only_the_capability_that_clocks_need_is_left(machine, daemon):
    with daemon.client() as client:
        assert client.reach(1005.0)
        (holder,) = daemon.holders()
        worker = daemon.worker()  # it reads what strangers send, and makes no driver call
        kept = {daemon.process.pid: 1 << CAP_SYS_ADMIN, worker: 0, holder: 1 << CAP_SYS_ADMIN}
        look_at_privileges(kept)


def look_at_privileges(kept):
    for pid, bits in kept.items():
        assert capabilities(pid) == bits
        text = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)
        assert int(fields["CapPrm"], 16) == bits
        assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == 0
        assert fields["NoNewPrivs"] == "1"


COMMAND = encode_command(1, 1005.0, 1.0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"V", "1 bytes"),
        (b"XX\x01\x02", "not a message of this protocol"),
        (b"VA\x02\x02", "Update the older side"),
        (b"VA\x01\xff", "does not exist"),
        (b"VA\x01\x02", "a COMMAND of 4 bytes"),
        (COMMAND[:-1], "bytes"),
        (COMMAND, "without a lease"),
        (b"VA\x01\x41" + bytes(25), "goes to clients only"),
        (b"VA\x01\x03x", "no body"),
        (b"VA\x01\x01{", "not JSON"),
        (b"VA\x01\x01" + b"[" * 9000, "not JSON"),
        (b"VA\x01\x01\xff\xff", "not JSON"),
        (b"VA\x01\x01[]", "not a JSON object"),
        (b"VA\x01" + bytes([1]) + b"x" * MAX_BYTES, "bytes"),
        (b"VA\x01\x01" + b'{"domain":"x","devices":["GPU-0"],"lease_s":1,"more":1}', "exactly"),
        (b"VA\x01\x01" + b'{"domain":"","devices":["GPU-0"],"lease_s":1}', "printable ASCII name"),
        (b"VA\x01\x01" + b'{"domain":"x","devices":[],"lease_s":1}', "list of 1-64"),
        (b"VA\x01\x01" + b'{"domain":"x","devices":[true],"lease_s":1}', "index"),
        (b"VA\x01\x01" + b'{"domain":"x","devices":["x"],"lease_s":1}', "no UUID"),
        (b"VA\x01\x01" + b'{"domain":"x","devices":["GPU-0","GPU-0"],"lease_s":1}', "twice"),
        (b"VA\x01\x01" + b'{"domain":"x","devices":["GPU-0"],"lease_s":NaN}', "positive"),
        (b"VA\x01\x01" + b'{"domain":"x","devices":["GPU-9"],"lease_s":1}', "nvidia-smi -L"),
        (b"VA\x01\x01" + b'{"domain":"x","devices":["MIG-9"],"lease_s":1}', "disable MIG"),
        (b"VA\x01\x01" + b'{"domain":"x","devices":[0],"lease_s":1}', "Update voltana-actuatord"),
        (b"VA\x01\x01" + b'{"domain":"x","devices":["0"],"lease_s":1}', "name the GPU by its UUID"),
    ],
)
def test_a_bad_message_is_named_and_changes_nothing(data, says, machine, daemon):
    assert says in ask(daemon, data)[4:].decode()
    assert not machine.set_calls()


@pytest.mark.parametrize(
    ("sequence", "clock_mhz", "lease_s"),
    [
        (5, 1006.0, 1.0),
        (5, 1e9, 1.0),
        (5, float("nan"), 1.0),
        (5, float("inf"), 1.0),
        (5, -1005.0, 1.0),
        (5, 1005.0, float("nan")),
        (5, 1005.0, 0.0),
        (2**64 - 1, 1005.0, 1.0),
    ],
)
def test_an_impossible_command_costs_the_owner_its_lease(
    sequence, clock_mhz, lease_s, machine, daemon
):
    with daemon.client() as client:
        assert client.reach(1005.0)
        calls = len(machine.set_calls())
        client.actuator._sock.send(encode_command(sequence, clock_mhz, lease_s))
        assert machine.wait(lambda: not machine.any_locked())
        assert len(machine.set_calls()) == calls


def test_a_flood_neither_hangs_the_daemon_nor_stops_others(machine, daemon):
    with daemon.client(1) as client, daemon.connect() as flood:
        flood.setblocking(False)
        ends_s = time.monotonic() + 1.0
        closed = False
        while time.monotonic() < ends_s and not closed:
            try:
                flood.send(b"VA\x01\x04")
            except BlockingIOError:
                time.sleep(0)
            except OSError:
                closed = True
        assert client.reach(1005.0)
        assert closed or _refused(flood)
        assert machine.locked_mhz(1) == 1005
    assert not machine.locked_mhz(0)


def test_connections_are_bounded_for_each_user(machine, tmp_path):
    with Daemon(tmp_path, machine, head="max_connections = 8") as daemon:
        held = [daemon.connect() for _ in range(12)]
        answers = [_answer(sock) for sock in held]
        assert sum("too many connections" in answer for answer in answers) >= 8
        for sock in held:
            sock.close()
        assert ask(daemon, b"VA\x01\x04")[4:5] == b"{"


def fuzz(daemon, machine, count, seed):
    """Have the daemon answer `count` fuzzed messages, and look at what they did to it: nothing."""
    rng = random.Random(seed)
    sock, refused = daemon.connect(), 0
    assert ask(daemon, b"VA\x01\x04")  # from here on the worker is the one that stays
    worker, before_mb = daemon.worker(), math.inf
    for sent in range(count):
        if not _answered(sock, _fuzzed(rng)):
            refused += 1
            sock.close()
            sock = _connect_patiently(daemon)
        if sent == count // 4:
            before_mb = _resident_mb(worker)
    sock.close()
    assert refused > count // 2
    assert daemon.worker() == worker, daemon.log.read_text()[-2000:]
    assert not machine.set_calls()
    assert not machine.any_locked()
    growth_mb = _resident_mb(worker) - before_mb
    assert growth_mb < 3.0
    assert daemon.log.stat().st_size < 2_000_000
    with daemon.client() as client:  # and it still works
        assert client.reach(1005.0)


def _answered(sock, data):
    """Send a message and a query after it; whether the connection outlived the answer."""
    with contextlib.suppress(ConnectionError):
        sock.send(data)
        sock.send(b"VA\x01\x04")
    try:
        while answer := receive(sock):
            if answer[3] == Kind.STATUS:
                return True
    except ConnectionError:
        pass
    return False


def test_twenty_thousand_fuzzed_messages(machine, daemon):
    fuzz(daemon, machine, 20_000, seed=3)


@pytest.mark.slow
def test_a_million_fuzzed_messages(machine, tmp_path):
    # As patient as may be: in so many minutes a busy machine leaves any process silent for a while.
    with Daemon(tmp_path, machine, head="silence_s = 1.5") as daemon:
        fuzz(daemon, machine, 1_000_000, seed=4)


def _fuzzed(rng):
    """Garbage, mutated messages and almost valid ones; never a lease followed by its command."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.randrange(0, 200))
    if kind == 1:
        return b"VA\x01" + rng.randbytes(rng.randrange(1, 60))
    if kind == 2:
        body = {
            "domain": rng.choice(["x", "", "é" * 70, 5, None]),
            "devices": rng.choice([["GPU-9"], [1000], [], "0", [0.5], [[0]], None, {"0": 1}]),
            "lease_s": rng.choice([1, -1, 1e300, "1", None, True]),
        }
        return b"VA\x01\x01" + json.dumps(body).encode()
    if kind == 3:
        numbers = struct.pack("<Qdd", rng.getrandbits(64), rng.uniform(-1e4, 1e4), rng.random())
        return b"VA\x01\x02" + numbers[: rng.randrange(0, 25)]
    data = bytearray(rng.choice([COMMAND, b"VA\x01\x03", b"VA\x01\x04", b"VA\x01\x01{}"]))
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _connect_patiently(daemon):
    while True:
        try:
            return daemon.connect()
        except BlockingIOError:
            time.sleep(0.001)


def _refused(sock):
    with contextlib.suppress(BlockingIOError):
        try:
            while data := sock.recv(65536):
                if b"messages a second" in data:
                    return True
        except ConnectionError:
            return True
    return False


def _answer(sock):
    sock.settimeout(0.3)
    try:
        return sock.recv(4096).decode(errors="replace")
    except (TimeoutError, ConnectionError):
        return ""


def _resident_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
