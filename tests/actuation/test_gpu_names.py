"""GPUs have one name for all processes: a pod that counts them otherwise reaches its own alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.actuation.daemons import Daemon
from tests.actuation.driver import uuid_of
from voltana_actuatord.protocol import Kind, encode_json, receive

MINE = uuid_of(2)


@pytest.fixture
def node(make_machine):
    return make_machine(4)


def lease(node, daemon, gpus, **environment):
    """`voltana actuator lease` in a process of its own; what was locked meanwhile, by place."""
    command = [sys.executable, "-c", "from voltana.cli.main import main; main()"]
    command += ["actuator", "lease", "1005", "--seconds", "2", "--socket", str(daemon.socket)]
    process = subprocess.Popen(
        [*command, "--gpus", gpus],
        env=node.environment(**environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    node.wait(lambda: node.any_locked() or process.poll() is not None, 30)
    locked = [node.locked_mhz(index) for index in range(4)]
    _, said = process.communicate(timeout=60)
    return process.returncode, locked, said


def test_a_pods_own_index_reaches_its_own_gpu(node, tmp_path):
    with Daemon(tmp_path, node) as daemon:
        for gpus in ("0", MINE):
            code, locked, said = lease(
                node, daemon, gpus, NVIDIA_VISIBLE_DEVICES=MINE, CUDA_VISIBLE_DEVICES=MINE
            )
            assert (code, locked) == (0, [0, 0, 1005, 0]), said
        code, locked, said = lease(node, daemon, "2", NVIDIA_VISIBLE_DEVICES=MINE)
        assert (code, locked) == (2, [0, 0, 0, 0])
        assert "Or give UUIDs" in said


def test_two_processes_that_count_otherwise_do_not_meet(node, tmp_path):
    with Daemon(tmp_path, node) as daemon, daemon.client(2, lease_s=10.0) as other:
        assert other.reach(1200.0)
        code, _, said = lease(node, daemon, "0", NVIDIA_VISIBLE_DEVICES=MINE)
        assert code == 2
        assert f"{MINE} belongs to domain" in said
        assert [node.locked_mhz(index) for index in range(4)] == [0, 0, 1200, 0]


def test_an_index_outside_the_processs_allocation_is_refused(node, tmp_path):
    """Where the driver shows all GPUs, CUDA_VISIBLE_DEVICES still says whose they are."""
    with Daemon(tmp_path, node) as daemon:
        code, locked, said = lease(node, daemon, "0", CUDA_VISIBLE_DEVICES=MINE)
        assert (code, locked) == (2, [0, 0, 0, 0])
        assert "name your GPU by its UUID" in said
        code, locked, said = lease(node, daemon, "2", CUDA_VISIBLE_DEVICES=MINE)
        assert (code, locked) == (0, [0, 0, 1005, 0]), said


def test_a_rule_lends_by_uuid(node, tmp_path):
    allow = f"[[allow]]\nusers = [{os.geteuid()}]\ngpus = ['{MINE}']\n"
    with Daemon(tmp_path, node, allow=allow) as daemon:
        code, locked, _ = lease(node, daemon, "0", NVIDIA_VISIBLE_DEVICES=MINE)
        assert (code, locked) == (0, [0, 0, 1005, 0])
        code, locked, said = lease(node, daemon, "0")
        assert (code, locked) == (2, [0, 0, 0, 0])
        assert f"may not control {uuid_of(0)}" in said


def test_an_older_clients_index_is_refused_with_the_remedy(node, tmp_path):
    with Daemon(tmp_path, node) as daemon, daemon.connect() as sock:
        sock.send(encode_json(Kind.ACQUIRE, {"domain": "d", "devices": [0], "lease_s": 1.0}))
        answer = receive(sock)
        assert answer[3] == Kind.REFUSED
        said = json.loads(answer[4:])["error"]
        assert "by index, as older clients do" in said
        assert "Update voltana-actuatord on the client's side" in said
        assert not node.set_calls()


def test_the_journal_names_uuids_and_status_too(node, tmp_path):
    with Daemon(tmp_path, node) as daemon, daemon.client(3, lease_s=10.0) as client:
        assert client.reach(1005.0)
        assert [mark.stem for mark in daemon.journal.glob("*.locked")] == [uuid_of(3)]
        with daemon.connect() as sock:
            sock.send(b"VA\x01\x04")
            status = json.loads(receive(sock)[4:])
        assert status["gpus"] == [
            {
                "uuid": uuid_of(3), "at_default": False, "state": "lent", "note": "",
                "clock_mhz": 1005.0,
            }
        ]  # fmt: skip
        assert status["leases"][0]["devices"] == [uuid_of(3)]


def test_the_fake_is_no_laxer_than_a_container(machine, in_process):
    code = (
        "from voltana_actuatord.drivers.nvml import NvmlDriver\n"
        "from voltana_actuatord.faults import DriverError\n"
        "def uuid(name):\n"
        "    try:\n        return d.gpu(name).uuid\n"
        "    except DriverError as error:\n        return type(error).__name__\n"
        "d = NvmlDriver()\n"
        f"answer = [d.count(), *(uuid(name) for name in (0, 1, {uuid_of(0)!r}, {uuid_of(1)!r}))]"
    )
    first, second, gone = uuid_of(0), uuid_of(1), "NoSuchGpuError"
    both = in_process(code, NVIDIA_VISIBLE_DEVICES=f"{second},{first}")
    assert both == [2, first, second, first, second]  # in the node's order, not in the list's
    for name in (second, "1"):
        assert in_process(code, NVIDIA_VISIBLE_DEVICES=name) == [1, second, gone, gone, second]
