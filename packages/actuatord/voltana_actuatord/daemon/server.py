"""Serves the clients of the actuator daemon: reads messages, keeps leases, sends answers.

One thread, which makes no state-changing driver call: those belong to the channels (`channel`),
whose results come back through an eventfd.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voltana_actuatord.daemon.board import COOL_DOWN_S, Board
from voltana_actuatord.daemon.connections import Connection
from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.journal import Journal
from voltana_actuatord.daemon.leases import AccessRule, LeaseTable, suspend
from voltana_actuatord.faults import DriverError, LeaseRefusedError
from voltana_actuatord.protocol import (
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

    from voltana_actuatord.channel import Result
    from voltana_actuatord.daemon.parentlink import ParentLink
    from voltana_actuatord.drivers.nvml import Driver

SHUTDOWN_S = 1.5
OPERATOR_REST_S = 5.0
LISTED_LEASES = 20
"""Leases that fit a status message, however long their names are."""


class ActuatorServer:
    """Serves clients until it is told to stop.

    Args:
        config: What `DaemonSettings.to_plain` made, and ``quarantined``.
        listener: The listening socket.
        parent: The link to the parent.
        driver: NVML.
    """

    def __init__(
        self, config: dict[str, Any], listener: socket.socket, parent: ParentLink, driver: Driver
    ) -> None:
        self._log = Log("worker")
        self._call_limit_s = float(config["call_limit_s"])
        self._max_connections = int(config["max_connections"])
        self._leases = LeaseTable([_rule(rule) for rule in config["rules"]])
        self._results: deque[Result] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        journal = Journal(Path(config["state_dir"]) / "journal")
        self._board = Board(driver, journal, self._report, config["quarantined"])
        self._listener = listener
        self._parent = parent
        self._connections: dict[int, Connection] = {}
        self._next_key = 0
        self._stopping = False
        self._last_error = ""
        self._started_s = time.monotonic()
        listener.setblocking(False)
        self._selector = selectors.EpollSelector()
        self._selector.register(listener, selectors.EVENT_READ, "listener")
        self._selector.register(parent.sock, selectors.EVENT_READ, "parent")
        self._selector.register(self._bell, selectors.EVENT_READ, "bell")

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
            self._parent.ping(now_s, self._board.hung(now_s, self._call_limit_s))
            wait_s = min(self._parent.next_ping_s, self._leases.next_expiry_s()) - now_s
            for key, _ in self._selector.select(max(0.0, wait_s)):
                self._handle(key.data)
            self._lapse(time.monotonic())
        return self._shut_down()

    def _handle(self, source: object) -> None:
        if isinstance(source, Connection):
            self._read(source)
        elif source == "bell":
            self._take_results()
        elif source == "listener":
            self._accept()
        elif restored := self._parent.hear():
            self._board.release_quarantine(restored)

    # --- clients

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self._next_key += 1
        connection = Connection(sock, self._next_key, time.monotonic())
        peer = connection.peer
        mine = sum(1 for one in self._connections.values() if one.peer.uid == peer.uid)
        if not self._leases.admits(peer) and peer.uid != os.geteuid():
            self._turn_away(
                connection,
                f"uid {peer.uid} is in no [[allow]] rule of the daemon's configuration. Add it.",
            )
        elif len(self._connections) >= self._max_connections or mine >= self._max_connections // 2:
            self._turn_away(connection, "too many connections. Close some.")
        else:
            self._connections[connection.key] = connection
            self._selector.register(sock, selectors.EVENT_READ, connection)

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
                connection.send(encode_json(Kind.STATUS, self._status(now_s)))
            elif kind is Kind.RESTORE:
                self._operator_restore(connection, now_s)
            else:
                raise ProtocolError(f"{kind.name} goes to clients only.")
        except (LeaseRefusedError, DriverError) as error:
            body = {"error": str(error)[:400], "transient": error.transient}
            connection.send(encode_json(Kind.REFUSED, body))

    def _acquire(self, connection: Connection, data: bytes, now_s: float) -> None:
        self._take_results()  # what is left of earlier leases must not be put down to this one
        request = decode_acquire(data)
        if not self._leases.admits(connection.peer):
            raise LeaseRefusedError("no [[allow]] rule names this user. Add one.")
        self._leases.check(connection.peer, request.devices)
        table = self._board.open(request.devices)
        self._board.refuse_unready(request.devices, now_s)
        lease = self._leases.acquire(connection.key, connection.peer, request, table, now_s)
        body = {
            "domain": lease.domain,
            "table_mhz": sorted(lease.clocks_mhz),
            "lease_s": lease.max_lease_s,
        }
        connection.send(encode_json(Kind.GRANTED, body))

    def _command(self, connection: Connection, data: bytes, now_s: float) -> None:
        command = decode_command(data)
        key = connection.key
        held = self._leases.get(key)
        if held is not None and not held.active:
            try:
                self._board.refuse_unready(held.devices, now_s)
            except LeaseRefusedError as error:
                connection.send(encode_json(Kind.REVOKED, {"error": str(error)}))
                return
        lease = self._leases.command(key, command, now_s)
        if command.clock_mhz != lease.target_mhz:
            lease.target_mhz = command.clock_mhz
            self._board.set_clock(key, command.sequence, lease.devices, command.clock_mhz)
        else:
            ack = self._board.renewed(key, command.sequence)
            if ack is not None:
                connection.send(encode_ack(ack))

    def _operator_restore(self, connection: Connection, now_s: float) -> None:
        everything = connection.peer.uid == os.geteuid()
        devices: set[int] = set()
        for key, other in list(self._connections.items()):
            lease = self._leases.get(key)
            if lease is None or not (everything or other.peer.uid == connection.peer.uid):
                continue
            devices.update(lease.devices)
            self._revoke(key, "restored by the operator.")
        if everything:
            devices.update(self._board.indices())
        self._board.restore(devices)
        self._board.rest(devices, now_s + OPERATOR_REST_S)
        connection.send(encode_json(Kind.RESTORED, {"devices": sorted(devices)}))

    def _drop(self, connection: Connection) -> None:
        self._end_lease(connection)
        if self._connections.pop(connection.key, None) is not None:
            self._selector.unregister(connection.sock)
            connection.close()

    def _end_lease(self, connection: Connection) -> None:
        lease = self._leases.release(connection.key)
        self._board.forget(connection.key)
        if lease is not None and lease.active:
            self._board.restore(lease.devices)

    # --- leases and results

    def _lapse(self, now_s: float) -> None:
        for key, lease in self._leases.lapse(now_s):
            self._board.restore(lease.devices)
            self._board.forget(key)
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
        self._board.forget(key)
        self._board.restore(lease.devices)
        self._log(f"domain {lease.domain!r} of pid {lease.peer.pid} revoked: {why}")
        self._connections[key].send(encode_json(Kind.REVOKED, {"error": why[:400]}))

    def _report(self, result: Result) -> None:
        self._results.append(result)
        os.eventfd_write(self._bell, 1)

    def _take_results(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        while self._results:
            result = self._results.popleft()
            if result.failed:
                self._last_error = result.note
                self._log(result.note)
            held = self._leases.holding(result.device)
            if held is None or result.wish.clock_mhz is None:
                continue
            key, lease = held
            if result.failed:
                self._board.rest(lease.devices, time.monotonic() + COOL_DOWN_S)
                self._revoke(key, result.note)
                continue
            ack = self._board.settled(key, result)
            if ack is not None:
                self._connections[key].send(encode_ack(ack))

    def _shut_down(self) -> bool:
        if self._parent.gone:
            self._log("the parent is gone: restoring and ending.")
        for connection in list(self._connections.values()):
            connection.send(encode_json(Kind.REVOKED, {"error": "the daemon stops."}))
            self._drop(connection)
        self._board.restore(self._board.indices())
        ends_s = time.monotonic() + SHUTDOWN_S
        while not self._board.all_default() and time.monotonic() < ends_s:
            time.sleep(0.005)
        self._board.stop()
        return self._board.all_default()

    def _status(self, now_s: float) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "uptime_s": round(now_s - self._started_s, 3),
            "connections": len(self._connections),
            "last_error": self._last_error[:400],
            "gpus": [
                {"index": index, "at_default": self._board.is_default(index)}
                for index in self._board.indices()
            ],
            "leases": [
                {
                    "domain": lease.domain,
                    "devices": lease.devices,
                    "pid": lease.peer.pid,
                    "uid": lease.peer.uid,
                    "active": lease.active,
                    "left_s": round(max(0.0, lease.expires_s - now_s), 3) if lease.active else 0.0,
                    "sequence": lease.sequence,
                    "target_mhz": lease.target_mhz if lease.target_mhz > 0 else None,
                }
                for lease in sorted(self._leases.all(), key=lambda one: not one.active)[
                    :LISTED_LEASES
                ]
            ],
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
