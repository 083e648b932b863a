"""What the process of a GPU says before it ends is heard, whoever tells of its end first."""

from __future__ import annotations

import json
import os
import socket
from contextlib import closing

import pytest

from voltana_actuatord.daemon.gpulink import EXAMINE, WISHES_BYTES, Examined, encode_answer
from voltana_actuatord.daemon.linkends import MAX_BYTES, link
from voltana_actuatord.daemon.parentlink import ParentLink, say
from voltana_actuatord.daemon.server import ActuatorServer

UUID = "GPU-9"
ACQUIRE = b"VA\x01\x01" + b'{"domain":"x","devices":["GPU-9"],"lease_s":1}'
RULE = {
    "uids": [os.geteuid()],
    "gids": [],
    "gpus": [UUID],
    "min_mhz": 0.0,
    "max_mhz": 1e6,
    "max_lease_s": 10.0,
}
CONFIG = {"max_connections": 16, "idle_s": 30.0, "restoring": [], "rules": [RULE]}


def pair():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def refusal_of(client):
    client.settimeout(5)
    return json.loads(client.recv(MAX_BYTES)[4:])


@pytest.mark.parametrize("word", ["ready", "restoring"])
def test_a_refusal_is_heard_though_the_parent_was_first_with_the_end(tmp_path, word):
    parent, theirs = pair()
    to_gpu, gpu = link()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client,
        parent,
        theirs,
    ):
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        server = ActuatorServer(CONFIG, listener, ParentLink(theirs))
        client.connect(str(tmp_path / "socket"))
        client.send(ACQUIRE)
        server.handle(listener)
        (connection,) = server._clients.all()
        server.handle(connection)
        assert parent.recv(MAX_BYTES) == b"open GPU-9"
        with closing(to_gpu):
            say(parent, UUID, "open", to_gpu)
        server._hear_parent()
        with closing(gpu):
            assert gpu.read(WISHES_BYTES) == EXAMINE
            gpu.answer(encode_answer(Examined(device=UUID, refusal="see `nvidia-smi -L`")))
        say(parent, UUID, word)
        server._hear_parent()
        assert refusal_of(client) == {"error": "see `nvidia-smi -L`", "transient": False}
        server._clients.drop(connection)
