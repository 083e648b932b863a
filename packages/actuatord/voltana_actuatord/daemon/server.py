"""Serves the clients of the actuator daemon: reads messages, keeps leases, sends answers.

One thread, which makes no driver call at all: those belong to the GPUs' processes (`holder`), whose
answers come over links (`open_gpus`). Nothing here waits for a GPU.
"""

from __future__ import annotations

import errno
import os
import selectors
import time
from typing import TYPE_CHECKING, Any

from voltana_actuatord.daemon.acquiring import Acquiring
from voltana_actuatord.daemon.admission import Admission
from voltana_actuatord.daemon.connections import Connection
from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.gpulink import Examined
from voltana_actuatord.daemon.leases import AccessRule, LeaseTable, suspend
from voltana_actuatord.daemon.listing import listed
from voltana_actuatord.daemon.open_gpus import COOL_DOWN_S, OpenGpus
from voltana_actuatord.daemon.unknown_names import UnknownNames
from voltana_actuatord.faults import DriverError, LeaseRefusedError
from voltana_actuatord.protocol import (
    MAX_BYTES,
    Kind,
    ProtocolError,
    decode_acquire,
    decode_command,
    encode_ack,
    encode_json,
    kind_of,
)

if TYPE_CHECKING:
    import socket

    from voltana_actuatord.daemon.parentlink import ParentLink
    from voltana_actuatord.protocol import Acquire
    from voltana_actuatord.wishes import Result

OPERATOR_REST_S = 5.0
STATUS_WEIGHT = 4.0
"""A status takes as long as so many commands."""

GPUS_BYTES = MAX_BYTES // 2 - 3_000
"""What GPUs may take of a status message; leases take half of it, and the rest little."""

DEAF_S = 0.2
"""How long nobody is accepted where the process has no descriptor left."""


class ActuatorServer:
    """Serves clients until it is told to stop.

    Args:
        config: What `DaemonSettings.to_plain` made, and ``restoring``.
        listener: The listening socket.
        parent: The link to the parent.
    """

    def __init__(self, config: dict[str, Any], listener: socket.socket, parent: ParentLink) -> None:
        self._log = Log("worker")
        self._leases = LeaseTable([_rule(rule) for rule in config["rules"]])
        self._admission = Admission(
            int(config["max_connections"]), float(config["idle_s"]), os.geteuid()
        )
        self._acquiring = Acquiring()
        self._unknown_names = UnknownNames()
        self._selector = selectors.EpollSelector()
        self._gpus = OpenGpus(
            parent,
            self._watch,
            self._unwatch,
            config["restoring"],
        )
        self._listener = listener
        self._parent = parent
        self._connections: dict[int, Connection] = {}
        self._next_key = 0
        self._stopping = False
        self._last_error = ""
        self._deaf_until_s = 0.0
        self._swept_s = self._started_s = time.monotonic()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, listener)
        self._selector.register(parent.sock, selectors.EVENT_READ, parent)

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
            due_s = min(
                self._parent.next_ping_s, self._leases.next_expiry_s(), self._acquiring.next_end_s()
            )
            for key, _ in self._selector.select(max(0.0, due_s - now_s)):
                self._handle(key.data)
            self._tidy(time.monotonic())
        return self._shut_down()

    def _handle(self, source: object) -> None:
        if isinstance(source, Connection):
            self._read(source)
        elif isinstance(source, str):
            self._hear_gpu(source)
        elif source is self._listener:
            self._accept()
        else:
            self._hear_parent()

    def _tidy(self, now_s: float) -> None:
        """Do what time alone demands."""
        self._gpus.catch_up()
        self._lapse(now_s)
        for key, why in self._acquiring.late(now_s):
            self._refuse(key, why)
        if self._deaf_until_s and now_s >= self._deaf_until_s:
            self._deaf_until_s = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ, self._listener)
        if now_s - self._swept_s > 1.0:
            self._swept_s = now_s
            connections = list(self._connections.values())
            for connection in self._admission.idle(connections, self._controls, now_s):
                self._turn_out(connection, "idle for too long. Connect again when there is need.")

    # --- clients

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}:
                self._selector.unregister(self._listener)
                self._deaf_until_s = time.monotonic() + DEAF_S
            return
        self._next_key += 1
        try:
            connection = Connection(sock, self._next_key, time.monotonic())
        except OSError:
            sock.close()
            return
        peer, others = connection.peer, self._connections.values()
        if not self._leases.admits(peer) and peer.uid != os.geteuid():
            self._turn_away(
                connection,
                f"uid {peer.uid} is in no [[allow]] rule of the daemon's configuration. Add it.",
            )
            return
        place, victim = self._admission.must_yield(peer.uid, others, self._has_proved)
        if not place or self._admission.full(peer.uid, others):
            self._turn_away(connection, "too many connections. Close some.")
            return
        if victim is not None:
            self._turn_out(victim, "its place was needed for another user. Connect again.")
        self._connections[connection.key] = connection
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _controls(self, connection: Connection) -> bool:
        """Whether a connection holds GPUs by control steps, or is about to."""
        lease = self._leases.get(connection.key)
        return connection.key in self._acquiring or (lease is not None and lease.active)

    def _has_proved(self, connection: Connection) -> bool:
        """Whether a connection holds GPUs and has shown that it controls them."""
        lease = self._leases.get(connection.key)
        return lease is not None and lease.active and lease.sequence >= 0

    def _turn_out(self, connection: Connection, why: str) -> None:
        connection.send(encode_json(Kind.REFUSED, {"error": why}))
        self._drop(connection)

    def _turn_away(self, connection: Connection, why: str) -> None:
        self._log(f"refused pid {connection.peer.pid}, uid {connection.peer.uid}: {why}")
        connection.send(encode_json(Kind.REFUSED, {"error": why}))
        connection.close()

    def _read(self, connection: Connection) -> None:
        now_s = time.monotonic()
        try:
            for data in connection.messages():
                connection.count_message(now_s)
                self._message(connection, data, now_s)
        except ProtocolError as error:
            text = f"broke the protocol: {error}"
            self._log(f"pid {connection.peer.pid}, uid {connection.peer.uid} {text}")
            connection.send(encode_json(Kind.REFUSED, {"error": text[:400]}))
            self._drop(connection)
        except OSError:
            self._drop(connection)
        except Exception as error:  # noqa: BLE001  (one client's message must not end the others)
            peer = connection.peer
            self._log(f"pid {peer.pid}, uid {peer.uid} sent what was not foreseen: {error!r:.200}")
            self._drop(connection)

    def _message(self, connection: Connection, data: bytes, now_s: float) -> None:
        kind = kind_of(data)
        try:
            if kind is Kind.COMMAND:
                self._command(connection, data, now_s)
            elif kind is Kind.ACQUIRE:
                self._acquire(connection, data, now_s)
            elif kind is Kind.RELEASE:
                self._end_lease(connection)
            elif kind is Kind.QUERY:
                connection.count_message(now_s, STATUS_WEIGHT)
                connection.send(encode_json(Kind.STATUS, self._status(now_s)))
            elif kind is Kind.RESTORE:
                self._operator_restore(connection, now_s)
            else:
                raise ProtocolError(f"{kind.name} goes to clients only.")
        except (LeaseRefusedError, DriverError) as error:
            self._refuse(connection.key, error)

    def _acquire(self, connection: Connection, data: bytes, now_s: float) -> None:
        request = decode_acquire(data)
        key = connection.key
        if key in self._acquiring:
            raise ProtocolError("one lease a connection. Wait for the answer.")
        if not self._leases.admits(connection.peer):
            raise LeaseRefusedError("no [[allow]] rule names this user. Add one.")
        self._leases.check(key, connection.peer, request.devices, now_s)
        self._gpus.refuse_unready(request.devices, now_s)
        unknown = self._gpus.unknown(request.devices)
        self._unknown_names.charge(connection.peer.uid, unknown, now_s)
        self._acquiring.begin(key, request, now_s)
        self._gpus.examine(request.devices)

    def _grant(self, connection: Connection, request: Acquire, now_s: float) -> None:
        """Every GPU was looked at."""
        self._gpus.refuse_unready(request.devices, now_s)
        table = self._gpus.common_clocks(request.devices)
        lease = self._leases.acquire(connection.key, connection.peer, request, table, now_s)
        self._gpus.lend(request.devices)
        body = {
            "domain": lease.domain,
            "table_mhz": sorted(lease.clocks_mhz),
            "lease_s": lease.max_lease_s,
        }
        connection.send(encode_json(Kind.GRANTED, body))

    def _refuse(self, key: int, error: LeaseRefusedError | DriverError) -> None:
        connection = self._connections.get(key)
        if connection is not None:
            body = {"error": str(error)[:400], "transient": error.transient}
            connection.send(encode_json(Kind.REFUSED, body))

    def _command(self, connection: Connection, data: bytes, now_s: float) -> None:
        command = decode_command(data)
        key = connection.key
        held = self._leases.get(key)
        if held is not None and not held.active:
            try:
                self._gpus.refuse_unready(held.devices, now_s)
            except LeaseRefusedError as error:
                connection.send(encode_json(Kind.REVOKED, {"error": str(error)}))
                return
            self._gpus.lend(held.devices)
        lease = self._leases.command(key, command, now_s)
        if command.clock_mhz != lease.target_mhz:
            lease.target_mhz = command.clock_mhz
            self._gpus.set_clock(key, command.sequence, lease.devices, command.clock_mhz)
        else:
            ack = self._gpus.renewed(key, command.sequence)
            if ack is not None:
                connection.send(encode_ack(ack))

    def _operator_restore(self, connection: Connection, now_s: float) -> None:
        everything = connection.peer.uid == os.geteuid()
        devices: set[str] = set()
        for key, other in list(self._connections.items()):
            lease = self._leases.get(key)
            if lease is None or not (everything or other.peer.uid == connection.peer.uid):
                continue
            devices.update(lease.devices)
            self._revoke(key, "restored by the operator.")
        if everything:
            devices.update(self._gpus.opened())
        self._gpus.restore(devices, forced=everything)
        self._gpus.rest(devices, now_s + OPERATOR_REST_S)
        connection.send(encode_json(Kind.RESTORED, {"devices": sorted(devices)}))

    def _drop(self, connection: Connection) -> None:
        self._acquiring.forget(connection.key)
        self._end_lease(connection)
        if self._connections.pop(connection.key, None) is not None:
            self._selector.unregister(connection.sock)
            connection.close()

    def _end_lease(self, connection: Connection) -> None:
        lease = self._leases.release(connection.key, time.monotonic())
        self._gpus.forget(connection.key)
        if lease is not None and lease.active:
            self._gpus.restore(lease.devices)

    # --- leases and results

    def _lapse(self, now_s: float) -> None:
        for key, lease in self._leases.lapse(now_s):
            self._gpus.restore(lease.devices)
            self._gpus.forget(key)
            text = (
                f"no completed control step for {lease.max_lease_s:g} s: default clocks are back. "
                "The next step takes the lease up again."
            )
            self._log(f"domain {lease.domain!r} of pid {lease.peer.pid}: {text}")
            self._connections[key].send(encode_json(Kind.REVOKED, {"error": text}))

    def _revoke(self, key: int, why: str) -> None:
        lease = self._leases.get(key)
        if lease is None or not lease.active:
            return
        suspend(lease)
        self._gpus.forget(key)
        self._gpus.restore(lease.devices)
        self._log(f"domain {lease.domain!r} of pid {lease.peer.pid} revoked: {why}")
        self._connections[key].send(encode_json(Kind.REVOKED, {"error": why[:400]}))

    # --- GPUs

    def _watch(self, uuid: str, link: socket.socket) -> None:
        self._selector.register(link, selectors.EVENT_READ, uuid)

    def _unwatch(self, link: socket.socket) -> None:
        self._selector.unregister(link)

    def _hear_parent(self) -> None:
        while (news := self._parent.hear()) is not None:
            self._take_answers(news.uuid)  # news of its end must not hide what it said last
            if self._gpus.hear(news, time.monotonic()):
                self._lost(news.uuid)

    def _hear_gpu(self, uuid: str) -> None:
        if not self._take_answers(uuid) and self._gpus.lose(uuid):
            self._lost(uuid)

    def _take_answers(self, uuid: str) -> bool:
        """Take what a GPU's process has said since; whether it said anything."""
        now_s = time.monotonic()
        answers = self._gpus.answers(uuid, now_s)
        for answer in answers:
            if isinstance(answer, Examined):
                self._take_examined(answer, now_s)
            else:
                self._take_result(answer, now_s)
        return bool(answers)

    def _lost(self, uuid: str) -> None:
        """The process of a GPU is gone, or there is none to be had."""
        text = f"{uuid} is being restored to its default clocks: its process is gone. Try again."
        for key, why in self._acquiring.lose(uuid, LeaseRefusedError(text, transient=True)):
            self._refuse(key, why)
        held = self._leases.holding(uuid)
        if held is not None:
            self._revoke(held[0], text)

    def _take_examined(self, found: Examined, now_s: float) -> None:
        if found.notes:
            self._log(found.notes)
        for key, request, why in self._acquiring.take(found):
            connection = self._connections.get(key)
            if connection is None:
                continue
            try:
                if why is not None:
                    raise why
                self._grant(connection, request, now_s)
            except (LeaseRefusedError, DriverError) as error:
                self._refuse(key, error)
            except ProtocolError as error:
                self._turn_out(connection, str(error))
        held = self._leases.holding(found.device)
        if found.refusal and not found.clocks_mhz and held is not None:
            self._revoke(held[0], found.refusal)

    def _take_result(self, result: Result, now_s: float) -> None:
        if result.failed:
            self._last_error = result.note
            self._log(result.note)
        held = self._leases.holding(result.device)
        if held is None or result.wish.clock_mhz is None or not self._gpus.is_of_lease(result):
            return
        key, lease = held
        if result.failed:
            self._gpus.rest(lease.devices, now_s + COOL_DOWN_S)
            self._revoke(key, result.note)
            return
        ack = self._gpus.settled(key, result)
        if ack is not None:
            self._connections[key].send(encode_ack(ack))

    def _shut_down(self) -> bool:
        for connection in list(self._connections.values()):
            connection.send(encode_json(Kind.REVOKED, {"error": "the daemon stops."}))
            self._drop(connection)
        self._gpus.stop()  # each GPU's process restores it, under the eyes of the parent
        if self._parent.gone:
            self._log("the parent is gone: every clock is given back.")
        return True

    def _status(self, now_s: float) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "uptime_s": round(now_s - self._started_s, 3),
            "connections": len(self._connections),
            "last_error": self._last_error[:400],
            "gpus": self._gpus.listed(GPUS_BYTES),
            "leases": listed(self._leases.all(), now_s),
        }


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
