"""`ActuatorProcess`: the unprivileged side of the actuator daemon, behind the Actuator port.

`apply` packs one datagram and sends it without blocking. It is the heartbeat too: its sequence
number advances with every completed step of the control loop, and nothing else renews the lease,
so a controller that hangs loses its clock however alive its process is. The one thread that this
class starts only connects again after the daemon went away; it never sends a command.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from voltana_actuatord.backoff import Backoff
from voltana_actuatord.connecting import connect
from voltana_actuatord.errors import ActuatorError, invalid
from voltana_actuatord.faults import DaemonUnavailableError, LeaseRefusedError
from voltana_actuatord.gpu_names import uuid_problem
from voltana_actuatord.guard import CommandGuard
from voltana_actuatord.protocol import (
    DEFAULT_SOCKET,
    Acquire,
    Kind,
    ProtocolError,
    decode_ack,
    decode_granted,
    decode_json,
    encode_acquire,
    encode_command,
    encode_empty,
    kind_of,
    receive,
)
from voltana_actuatord.timebase import MonotonicTime, lengthened_s, time_factor
from voltana_actuatord.values import ActuatorStatus, Command, Domain, Health

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path

    from voltana_actuatord.timebase import TimeSource

CONNECT_LIMIT_S = 1.0
PATIENCE_S = 2.0
"""How long a client waits in all for GPUs that are being restored, or opened."""

FIRST_RETRY_S = 0.05
LAST_RETRY_S = 1.0
ANSWER_LIMIT_S = 1.0


class _Granted(NamedTuple):
    """What the daemon granted: clocks in MHz, and a lease in seconds."""

    table_mhz: tuple[float, ...]
    lease_s: float


class ActuatorProcess:
    """Sets the clock of one domain through ``voltana-actuatord``.

    Args:
        domain: The GPUs that change clock as one, by UUID (`gpu_uuids` translates indices).
        socket_path: Where the daemon listens.
        lease_s: How long the clock holds without a completed control step; the daemon may shorten.
        table_mhz: Clocks of the devices, to start without a daemon: the engine then runs at its
            default clocks until there is one. None asks the daemon, which must be there.
        time_source: Source of time, for the age of acknowledgements.

    Attributes:
        lease_s: The lease that was granted; a control loop renews well within it.

    Raises:
        ConfigError: If the domain names no GPU, or one by something else than its UUID.
        DaemonUnavailableError: If there is no daemon and no `table_mhz`.
        LeaseRefusedError: If the daemon does not grant the lease and there is no `table_mhz`.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        socket_path: str | Path = DEFAULT_SOCKET,
        lease_s: float = 2.0,
        table_mhz: Sequence[float] | None = None,
        time_source: TimeSource | None = None,
    ) -> None:
        if not (math.isfinite(lease_s) and lease_s > 0):
            raise invalid("lease_s", lease_s, "above 0 s", "Take 2 s if unsure.")
        _require_uuids(domain)
        self._path = str(socket_path)
        self._factor = time_factor()  # read once: leases are lengthened at every control step
        self._request = encode_acquire(
            Acquire(domain.name, tuple(domain.devices), lengthened_s(lease_s, self._factor))
        )
        self._time = time_source or MonotonicTime()
        self._closed = threading.Event()
        self._switching = threading.Lock()
        self._reconnector: threading.Thread | None = None
        self._sock: socket.socket | None = None
        self._unsent: tuple[bytes, float] | None = None
        self._waiting_since_s = math.nan
        self._acked_sequence = -1
        self._clock_mhz = math.nan
        self._health = Health.OK
        self._error = ""
        try:
            self._sock, granted = self._connect_patiently()
        except ActuatorError as error:
            if table_mhz is None:
                raise
            granted = _Granted(tuple(sorted(map(float, table_mhz))), lease_s)
            self._lose(str(error))
        self.lease_s = granted.lease_s
        self._guard = CommandGuard(granted.table_mhz)

    def table(self) -> tuple[float, ...]:
        """Clocks in MHz that may be set: supported and permitted, ascending."""
        return self._guard.table_mhz

    def apply(self, command: Command) -> None:
        """Ask for a clock, or renew the lease by the next step at the same clock.

        Never blocks. If the daemon is away the command is dropped, `status` says so, and the GPU
        runs at its default clocks.

        Raises:
            ActuatorError: After `close`.
            ConfigError: If the clock is not in `table`, or the lease is not positive.
        """
        if self._guard.admits(command):
            lease_s = lengthened_s(command.lease_s, self._factor)
            self._send(encode_command(command.sequence, command.clock_mhz, lease_s))

    def status(self) -> ActuatorStatus:
        """What the daemon last said: the clock read back after settling, and what went wrong."""
        self._listen()
        if self._unsent is not None:
            self._send_late(*self._unsent)
        health, error = self._health, self._error
        waiting_s = self._time.now_s() - self._waiting_since_s
        if health is Health.OK and waiting_s > ANSWER_LIMIT_S:
            health, error = Health.DEGRADED, f"no acknowledgement for {waiting_s:.1f} s."
        return ActuatorStatus(
            clock_mhz=self._clock_mhz,
            target_mhz=self._guard.target_mhz,
            sequence=self._acked_sequence,
            health=health,
            error=error,
        )

    def close(self) -> None:
        """Give the default clocks back; may be called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._guard.closed = True
        with self._switching:
            sock, self._sock = self._sock, None
        if sock is not None:
            with contextlib.suppress(OSError):  # the daemon restores on the disconnect as well
                sock.send(encode_empty(Kind.RELEASE))
            sock.close()
        self._clock_mhz = math.nan
        self._health, self._error = Health.LOST, "closed"

    def _send(self, data: bytes, expires_s: float | None = None) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            sock.send(data)
        except BlockingIOError:  # the daemon is behind: keep the latest only
            until_s = self._time.now_s() + self.lease_s if expires_s is None else expires_s
            self._unsent = data, until_s
        except OSError as error:
            self._listen()  # the daemon may have said why
            self._lose(self._error or f"the daemon went away: {error.strerror}.")
            return
        else:
            self._unsent = None
        if math.isnan(self._waiting_since_s):
            self._waiting_since_s = self._time.now_s()

    def _send_late(self, data: bytes, expires_s: float) -> None:
        """Send what did not fit, unless the step is as old as a lease: then it proves nothing."""
        self._unsent = None
        if self._time.now_s() < expires_s:
            self._send(data, expires_s)

    def _listen(self) -> None:
        while (sock := self._sock) is not None:
            try:
                data = receive(sock)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lose(self._error or "the daemon closed the connection.")
                return
            try:
                self._take(data)
            except ProtocolError as error:
                self._lose(str(error))
                return

    def _take(self, data: bytes) -> None:
        kind = kind_of(data)
        self._waiting_since_s = math.nan
        if kind is Kind.ACK:
            ack = decode_ack(data)
            self._acked_sequence = ack.sequence
            self._clock_mhz = ack.clock_mhz
            self._health, self._error = Health.OK, ack.note
        elif kind in {Kind.REVOKED, Kind.REFUSED}:
            self._clock_mhz = math.nan
            self._health = Health.DEGRADED
            self._error = str(decode_json(data).get("error", ""))

    def _lose(self, why: str) -> None:
        with self._switching:
            sock, self._sock = self._sock, None
            if sock is not None:
                sock.close()
            self._clock_mhz = self._waiting_since_s = math.nan
            self._unsent = None
            self._health, self._error = Health.LOST, why
            if self._reconnector is None and not self._closed.is_set():
                self._reconnector = threading.Thread(
                    target=self._reconnect, name="actuator-reconnect", daemon=True
                )
                self._reconnector.start()

    def _reconnect(self) -> None:
        pauses = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        while not self._closed.wait(pauses.next_s()):
            try:
                sock, _ = self._connect()
            except ActuatorError as error:
                self._error = str(error)
                continue
            with self._switching:
                self._reconnector = None
                if self._closed.is_set():
                    sock.close()
                    return
                self._sock = sock
                self._health, self._error = Health.OK, ""
            return

    def _connect_patiently(self) -> tuple[socket.socket, _Granted]:
        """Connect, waiting a moment for GPUs that are just being restored."""
        ends_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._connect()
            except LeaseRefusedError as error:
                if not error.transient or time.monotonic() > ends_s:
                    raise
                time.sleep(FIRST_RETRY_S / 5)

    def _connect(self) -> tuple[socket.socket, _Granted]:
        """Connect and take the lease; blocks for `CONNECT_LIMIT_S` at most."""
        ends_s = time.monotonic() + CONNECT_LIMIT_S
        sock = None
        try:
            sock = connect(self._path, CONNECT_LIMIT_S)
            with contextlib.suppress(ConnectionError):  # turned away: the reason can be read
                sock.send(self._request)
            while time.monotonic() < ends_s:
                data = receive(sock)
                kind = kind_of(data) if data else None
                if kind is Kind.GRANTED:
                    sock.setblocking(False)
                    return sock, _Granted(*decode_granted(decode_json(data)))
                if kind is Kind.REFUSED:
                    body = decode_json(data)
                    raise LeaseRefusedError(
                        str(body.get("error", "")), transient=body.get("transient") is True
                    )
                if kind is None:
                    raise ConnectionResetError
            raise TimeoutError
        except OSError as error:
            if sock is not None:
                sock.close()
            raise DaemonUnavailableError(
                f"no actuator daemon answers at {self._path} ({error.strerror or error}). Start "
                "voltana-actuatord, or check the socket's path and permissions; the GPUs run at "
                "their default clocks."
            ) from None
        except ActuatorError:
            if sock is not None:
                sock.close()
            raise


def _require_uuids(domain: Domain) -> None:
    problems = [text for name in domain.devices if (text := uuid_problem(name))]
    if not domain.devices or problems:
        raise invalid(
            "domain.devices",
            domain.devices,
            "UUIDs of one GPU or more",
            " ".join(problems) or "Name the GPUs that change clock as one.",
        )
