"""Serves the clients of the actuator daemon: waits for messages, GPUs and the clock.

One thread, which makes no driver call at all: those belong to the GPUs' processes (`holder`), whose
answers come over links (`open_gpus`). Connections are `clients`, leases are `lending`.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from voltana_actuatord.daemon.admission import Admission
from voltana_actuatord.daemon.clients import Clients
from voltana_actuatord.daemon.connections import Connection
from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.leases import AccessRule, LeaseTable
from voltana_actuatord.daemon.lending import Lending
from voltana_actuatord.daemon.listing import listed
from voltana_actuatord.daemon.open_gpus import OpenGpus
from voltana_actuatord.daemon.parentlink import FACTS
from voltana_actuatord.daemon.readers import Readers
from voltana_actuatord.daemon.turns import Turns
from voltana_actuatord.faults import DriverError, LeaseRefusedError
from voltana_actuatord.protocol import (
    MAX_BYTES,
    Kind,
    ProtocolError,
    encode_json,
    is_command,
    kind_of,
)
from voltana_actuatord.stderr import dropped_lines

if TYPE_CHECKING:
    import socket

    from voltana_actuatord.daemon.leases import Peer
    from voltana_actuatord.daemon.linkends import WorkerEnd
    from voltana_actuatord.daemon.parentlink import ParentLink

OPERATOR_REST_S = 5.0
GPUS_BYTES = MAX_BYTES // 2 - 3_700
"""What GPUs may take of a status message; leases take half of it, and the rest little."""


class ActuatorServer:
    """Serves clients until it is told to stop; satisfies `clients.Desk`.

    Args:
        config: What `DaemonSettings.to_plain` made, and ``restoring``.
        listener: The listening socket.
        parent: The link to the parent.
    """

    def __init__(self, config: dict[str, Any], listener: socket.socket, parent: ParentLink) -> None:
        self._readers = Readers()
        self._leases = LeaseTable([_rule(rule) for rule in config["rules"]])
        self._gpus = OpenGpus(parent, self._watch, self._readers.remove, config["restoring"])
        admission = Admission(int(config["max_connections"]), float(config["idle_s"]), os.geteuid())
        self._clients = Clients(listener, self._readers, admission, self)
        self._lending = Lending(self._leases, self._gpus, self._clients.send)
        self._turns = Turns(self.handle, self._can_wait)
        self._listener = listener
        self._parent = parent
        self._stopping = False
        self._of_parent: dict[str, Any] = {}
        self._started_s = time.monotonic()
        self._readers.add(parent.sock, parent)

    def stop(self, *_: object) -> None:
        """Ask the loop to end; safe in a signal handler."""
        self._stopping = True

    def serve(self) -> bool:
        """Serve, then restore every clock.

        Returns:
            Whether every GPU was at its default clocks at the end.
        """
        self._parent.tell("ready")
        while not (self._stopping or self._parent.gone):
            now_s = time.monotonic()
            self._parent.ping(now_s)
            due_s = min(self._parent.next_ping_s, self._lending.next_s(), self._clients.next_s())
            self._turns.take(self._readers.ready(max(0.0, due_s - now_s)))
            now_s = time.monotonic()
            self._gpus.catch_up()
            self._lending.tidy(now_s)
            self._clients.tidy(now_s)
        return self._shut_down()

    def handle(self, source: object) -> None:
        """Read from a source that has something to say."""
        if isinstance(source, Connection):
            self._clients.read(source)
        elif isinstance(source, str):
            self._hear_gpu(source)
        elif source is self._listener:
            self._clients.accept()
        else:
            self._hear_parent()

    def _can_wait(self, source: object) -> bool:
        """Whether a source controls no GPU, so that it is dealt with after all that do."""
        if isinstance(source, Connection):
            return not self._lending.control(source.key)[0]
        return source is self._listener

    # --- what clients say

    def admits(self, peer: Peer) -> bool:
        """See `Desk.admits`."""
        return self._leases.admits(peer)

    def message(self, connection: Connection, data: bytes, now_s: float) -> None:
        """See `Desk.message`."""
        try:
            if is_command(data):
                self._lending.command(connection, data, now_s)
                return
            kind = kind_of(data)
            if kind is Kind.ACQUIRE:
                self._lending.acquire(connection, data, now_s)
            elif kind is Kind.RELEASE:
                self._lending.end(connection.key, now_s)
            elif kind is Kind.QUERY:
                connection.send(encode_json(Kind.STATUS, self._status(now_s)))
            elif kind is Kind.RESTORE:
                self._operator_restore(connection, now_s)
            elif kind is Kind.COMMAND:
                raise ProtocolError(f"a COMMAND of {len(data)} bytes.")
            else:
                raise ProtocolError(f"{kind.name} goes to clients only.")
        except (LeaseRefusedError, DriverError) as error:
            self._lending.refuse(connection.key, error)

    def gone(self, key: int) -> None:
        """See `Desk.gone`."""
        self._lending.forget(key)
        self._lending.end(key, time.monotonic())

    def control(self, key: int) -> tuple[bool, bool]:
        """See `Desk.control`."""
        return self._lending.control(key)

    def _operator_restore(self, connection: Connection, now_s: float) -> None:
        everything = connection.peer.uid == os.geteuid()
        devices: set[str] = set()
        for other in self._clients.all():
            lease = self._leases.get(other.key)
            if lease is None or not (everything or other.peer.uid == connection.peer.uid):
                continue
            devices.update(lease.devices)
            self._lending.revoke(other.key, "restored by the operator.")
        if everything:
            devices.update(self._gpus.opened())
        self._gpus.restore(devices, forced=everything)
        self._gpus.rest(devices, now_s + OPERATOR_REST_S)
        connection.send(encode_json(Kind.RESTORED, {"devices": sorted(devices)}))

    def _status(self, now_s: float) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "uptime_s": round(now_s - self._started_s, 3),
            "connections": len(self._clients),
            "last_error": self._lending.last_error[:400],
            "counters": self._lending.counts
            | self._clients.counts
            | {"lines_dropped": dropped_lines()},
            "parent": self._of_parent,
            "gpu_states": self._gpus.states(),
            "leased_gpus": sum(len(one.devices) for one in self._leases.all() if one.active),
            "gpus": self._gpus.listed(GPUS_BYTES),
            "leases": listed(self._leases.all(), now_s),
        }

    # --- what parent and GPUs say

    def _watch(self, uuid: str, link: WorkerEnd) -> None:
        self._readers.add(link, uuid)

    def _hear_parent(self) -> None:
        while (news := self._parent.hear()) is not None:
            if news.uuid == FACTS:
                self._of_parent = json.loads(news.word)
                continue
            self._take_answers(news.uuid)  # news of its end must not hide what it said last
            if self._gpus.hear(news, time.monotonic()):
                self._lending.lost(news.uuid)

    def _hear_gpu(self, uuid: str) -> None:
        if not self._take_answers(uuid) and self._gpus.lose(uuid):
            self._lending.lost(uuid)

    def _take_answers(self, uuid: str) -> bool:
        """Take what a GPU's process has said since; whether it said anything."""
        now_s = time.monotonic()
        answers = self._gpus.answers(uuid, now_s)
        self._lending.take(answers, now_s)
        return bool(answers)

    def _shut_down(self) -> bool:
        for connection in self._clients.all():
            connection.send(encode_json(Kind.REVOKED, {"error": "the daemon stops."}))
            self._clients.drop(connection)
        self._gpus.stop()  # each GPU's process restores it, under the eyes of the parent
        if self._parent.gone:
            Log("worker")("the parent is gone: every clock is given back.")
        return True


def _rule(plain: dict[str, Any]) -> AccessRule:
    gpus = plain["gpus"]
    return AccessRule(
        uids=frozenset(plain["uids"]),
        gids=frozenset(plain["gids"]),
        gpus=None if gpus is None else frozenset(gpus),
        min_mhz=plain["min_mhz"],
        max_mhz=plain["max_mhz"],
        max_lease_s=plain["max_lease_s"],
    )
