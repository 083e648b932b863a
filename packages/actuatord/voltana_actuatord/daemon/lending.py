"""Lends GPUs to connections and takes them back: what a message, a GPU or the clock asks for.

Nothing here waits for a GPU: wishes go to the GPUs' processes, and what comes of them is taken when
it is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana_actuatord.daemon.acquiring import Acquiring
from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.gpulink import Examined
from voltana_actuatord.daemon.leases import suspend
from voltana_actuatord.daemon.open_gpus import COOL_DOWN_S
from voltana_actuatord.daemon.unknown_names import UnknownNames
from voltana_actuatord.faults import DriverError, LeaseRefusedError
from voltana_actuatord.protocol import (
    Kind,
    ProtocolError,
    decode_acquire,
    decode_command,
    encode_ack,
    encode_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voltana_actuatord.daemon.connections import Connection
    from voltana_actuatord.daemon.leases import LeaseTable, Peer
    from voltana_actuatord.daemon.open_gpus import OpenGpus
    from voltana_actuatord.protocol import Acquire
    from voltana_actuatord.wishes import Result


class Lending:
    """Leases, and the GPUs that they hold.

    Args:
        leases: Who may set which clocks, and until when.
        gpus: The GPUs.
        send: Sends a message to a connection by its key, if it is still there.

    Attributes:
        last_error: What went wrong last.
        counts: How often what happened, since the worker began.
    """

    def __init__(
        self, leases: LeaseTable, gpus: OpenGpus, send: Callable[[int, bytes], None]
    ) -> None:
        self._leases = leases
        self._gpus = gpus
        self._send = send
        self._acquiring = Acquiring()
        self._unknown_names = UnknownNames()
        self._log = Log("worker")
        self.last_error = ""
        self.counts = dict.fromkeys(
            ("granted", "refused", "lapsed", "revoked", "clock_changes", "driver_failures"), 0
        )

    # --- what clients ask for

    def command(self, connection: Connection, data: bytes, now_s: float) -> None:
        """Set a clock, or renew the lease: the way from a decision to the driver.

        Raises:
            ProtocolError: If it breaks the rules, which costs the lease.
            LeaseRefusedError: If another peer holds a device by now.
        """
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
            self.counts["clock_changes"] += 1
        else:
            ack = self._gpus.renewed(key, command.sequence)
            if ack is not None:
                connection.send(encode_ack(ack))

    def acquire(self, connection: Connection, data: bytes, now_s: float) -> None:
        """Begin to look at GPUs that are asked for.

        Raises:
            ProtocolError: If it breaks the rules.
            LeaseRefusedError: If it cannot be had.
        """
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
        self._acquiring.begin(key, connection.peer, request, now_s)
        self._gpus.examine(request.devices)

    def end(self, key: int, now_s: float) -> None:
        """End the lease of a connection, if it has one."""
        lease = self._leases.release(key, now_s)
        self._gpus.forget(key)
        if lease is not None and lease.active:
            self._gpus.restore(lease.devices)

    def forget(self, key: int) -> None:
        """A connection that is gone waits for nothing more."""
        self._acquiring.forget(key)

    def refuse(self, key: int, error: LeaseRefusedError | DriverError) -> None:
        """Tell a connection that it gets no lease."""
        self.counts["refused"] += 1
        body = {"error": str(error)[:400], "transient": error.transient}
        self._send(key, encode_json(Kind.REFUSED, body))

    def revoke(self, key: int, why: str) -> None:
        """Take an active lease away."""
        lease = self._leases.get(key)
        if lease is None or not lease.active:
            return
        suspend(lease)
        self.counts["revoked"] += 1
        self._gpus.forget(key)
        self._gpus.restore(lease.devices)
        self._log(f"domain {lease.domain!r} of pid {lease.peer.pid} revoked: {why}")
        self._send(key, encode_json(Kind.REVOKED, {"error": why[:400]}))

    def control(self, key: int) -> tuple[bool, bool]:
        """Whether a connection holds GPUs or is about to, and whether it has proved control."""
        lease = self._leases.get(key)
        holds = lease is not None and lease.active
        proved = lease is not None and holds and lease.sequence >= 0
        return holds or key in self._acquiring, proved

    # --- what time asks for

    def next_s(self) -> float:
        """When something is due."""
        return min(self._leases.next_expiry_s(), self._acquiring.next_end_s())

    def tidy(self, now_s: float) -> None:
        """Let lapse what is over."""
        for key, lease in self._leases.lapse(now_s):
            self.counts["lapsed"] += 1
            self._gpus.restore(lease.devices)
            self._gpus.forget(key)
            text = (
                f"no completed control step for {lease.max_lease_s:g} s: default clocks are back. "
                "The next step takes the lease up again."
            )
            self._log(f"domain {lease.domain!r} of pid {lease.peer.pid}: {text}")
            self._send(key, encode_json(Kind.REVOKED, {"error": text}))
        for key, why in self._acquiring.late(now_s):
            self.refuse(key, why)

    # --- what GPUs say

    def take(self, answers: Iterable[Result | Examined], now_s: float) -> None:
        """Take what a GPU's process has said."""
        for answer in answers:
            if isinstance(answer, Examined):
                self._take_examined(answer, now_s)
            else:
                self._take_result(answer, now_s)

    def lost(self, uuid: str) -> None:
        """The process of a GPU is gone, or there is none to be had."""
        text = f"{uuid} is being restored to its default clocks: its process is gone. Try again."
        for key, why in self._acquiring.lose(uuid, LeaseRefusedError(text, transient=True)):
            self.refuse(key, why)
        held = self._leases.holding(uuid)
        if held is not None:
            self.revoke(held[0], text)

    def _take_examined(self, found: Examined, now_s: float) -> None:
        if found.notes:
            self._log(found.notes)
        for key, peer, request, why in self._acquiring.take(found):
            try:
                if why is not None:
                    raise why
                self._grant(key, peer, request, now_s)
            except (LeaseRefusedError, DriverError) as error:
                self.refuse(key, error)
        held = self._leases.holding(found.device)
        if found.refusal and not found.clocks_mhz and held is not None:
            self.revoke(held[0], found.refusal)

    def _grant(self, key: int, peer: Peer, request: Acquire, now_s: float) -> None:
        """Every GPU was looked at."""
        self._gpus.refuse_unready(request.devices, now_s)
        table = self._gpus.common_clocks(request.devices)
        lease = self._leases.acquire(key, peer, request, table, now_s)
        self._gpus.lend(request.devices)
        self.counts["granted"] += 1
        body = {
            "domain": lease.domain,
            "table_mhz": sorted(lease.clocks_mhz),
            "lease_s": lease.max_lease_s,
        }
        self._send(key, encode_json(Kind.GRANTED, body))

    def _take_result(self, result: Result, now_s: float) -> None:
        if result.failed:
            self.counts["driver_failures"] += 1
            self.last_error = result.note
            self._log(result.note)
        held = self._leases.holding(result.device)
        if held is None or result.wish.clock_mhz is None or not self._gpus.is_of_lease(result):
            return
        key, lease = held
        if result.failed:
            self._gpus.rest(lease.devices, now_s + COOL_DOWN_S)
            self.revoke(key, result.note)
            return
        ack = self._gpus.settled(key, result)
        if ack is not None:
            self._send(key, encode_ack(ack))
