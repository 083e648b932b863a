"""Who may set which clocks, and until when: pure bookkeeping with the time handed in.

One owner a clock domain. A lease runs from the last command whose sequence number advanced; it
lapses when none comes in time, and the next valid command takes it up again unless somebody else
holds the devices by then. A command that breaks the rules costs the lease.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana_actuatord.faults import LeaseRefusedError
from voltana_actuatord.protocol import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from voltana_actuatord.protocol import Acquire, SetClock


UNPROVEN_S = 2.0
"""How long a lease holds its GPUs before the first control step."""

MAX_DEBT_S = 3.0
DEBT_DECAY = 0.25
"""How long a user may hold a GPU without a control step in all, and how fast that is forgotten."""


MAX_DEBTORS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule:
    """What some users and groups may do; the widest rule that fits a request applies.

    Attributes:
        uids: Users.
        gids: Groups, primary or supplementary.
        gpus: UUIDs of the GPUs; None is all of them.
        min_mhz: Lowest clock that may be set.
        max_mhz: Highest clock that may be set.
        max_lease_s: Longest lease.
    """

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    gpus: frozenset[str] | None = None
    min_mhz: float = 0.0
    max_mhz: float = math.inf
    max_lease_s: float = 2.0

    def admits(self, peer: Peer) -> bool:
        """Whether the rule is about this peer."""
        return peer.uid in self.uids or not self.gids.isdisjoint(peer.gids)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a socket, as the kernel says (SO_PEERCRED, SO_PEERGROUPS)."""

    pid: int
    uid: int
    gids: frozenset[int]


@dataclass(slots=True, kw_only=True)
class Lease:
    """A domain that a peer holds.

    Attributes:
        domain: Its name, for texts.
        devices: UUIDs of its GPUs.
        peer: The owner.
        clocks_mhz: Clocks that the owner may set.
        max_lease_s: Longest time between two commands.
        expires_s: When it lapses; -inf while it has lapsed.
        since_s: When it was granted.
        sequence: Last step that was proved; -1 before the first.
        target_mhz: Clock asked for last; nan before the first and after a lapse.
    """

    domain: str
    devices: tuple[str, ...]
    peer: Peer
    clocks_mhz: frozenset[float]
    max_lease_s: float
    since_s: float = 0.0
    expires_s: float = -math.inf
    sequence: int = -1
    target_mhz: float = math.nan

    @property
    def active(self) -> bool:
        """Whether it holds its devices."""
        return self.expires_s > -math.inf


class LeaseTable:
    """All leases. Mutated by its methods only; not thread-safe.

    Args:
        rules: Who may do what.
    """

    def __init__(self, rules: Sequence[AccessRule]) -> None:
        self._rules = tuple(rules)
        self._leases: dict[int, Lease] = {}
        self._debts: dict[tuple[int, str], tuple[float, float]] = {}

    def admits(self, peer: Peer) -> bool:
        """Whether any rule is about this peer."""
        return any(rule.admits(peer) for rule in self._rules)

    def check(self, key: int, peer: Peer, devices: Sequence[str], now_s: float) -> None:
        """Check, before any driver call, that a peer may have devices.

        Raises:
            LeaseRefusedError: If no rule allows it or another peer holds one.
            ProtocolError: If the connection holds a lease already.
        """
        if key in self._leases:
            raise ProtocolError("one lease a connection. Open another connection.")
        self._rule_for(peer, devices)
        self._refuse_taken(devices)
        self._refuse_in_debt(peer, devices, now_s)

    def acquire(
        self, key: int, peer: Peer, request: Acquire, table_mhz: Sequence[float], now_s: float
    ) -> Lease:
        """Grant a lease to the connection `key`.

        Args:
            key: The connection; it may hold one lease.
            peer: Who it is.
            request: What it wants.
            table_mhz: Clocks that the devices share.
            now_s: The time.

        Raises:
            LeaseRefusedError: If no rule allows it or another peer holds a device.
            ProtocolError: If the connection holds a lease already.
        """
        if key in self._leases:
            raise ProtocolError("one lease a connection. Open another connection.")
        rule = self._rule_for(peer, request.devices)
        clocks = frozenset(mhz for mhz in table_mhz if rule.min_mhz <= mhz <= rule.max_mhz)
        if not clocks:
            raise LeaseRefusedError(
                f"the rule for uid {peer.uid} leaves no clock of {table_mhz[0]:g}-"
                f"{table_mhz[-1]:g} MHz. Widen min_mhz and max_mhz in the daemon's configuration."
            )
        self._refuse_taken(request.devices)
        self._refuse_in_debt(peer, request.devices, now_s)
        lease = Lease(
            domain=request.domain,
            devices=request.devices,
            peer=peer,
            clocks_mhz=clocks,
            max_lease_s=min(request.lease_s, rule.max_lease_s),
            since_s=now_s,
        )
        lease.expires_s = now_s + min(lease.max_lease_s, UNPROVEN_S)
        self._leases[key] = lease
        return lease

    def command(self, key: int, command: SetClock, now_s: float) -> Lease:
        """Renew the lease of `key` by a command, taking a lapsed one up again.

        Raises:
            ProtocolError: If there is no lease, the step does not advance, or the clock is not
                one that the owner may set; the caller then takes the lease away.
            LeaseRefusedError: If it has lapsed and another peer holds a device now.
        """
        lease = self._leases.get(key)
        if lease is None:
            raise ProtocolError("a command without a lease. Send ACQUIRE first.")
        if command.sequence <= lease.sequence:
            raise ProtocolError(
                f"step {command.sequence} after step {lease.sequence}: a heartbeat must prove a "
                "completed control step."
            )
        if command.clock_mhz not in lease.clocks_mhz:
            low, high = min(lease.clocks_mhz), max(lease.clocks_mhz)
            raise ProtocolError(
                f"clock_mhz = {command.clock_mhz:g} is not a supported and permitted clock of "
                f"{low:g}-{high:g} MHz. Take one from table()."
            )
        if not lease.active:
            self._refuse_taken(lease.devices)
        lease.sequence = command.sequence
        lease.expires_s = now_s + min(command.lease_s, lease.max_lease_s)
        return lease

    def lapse(self, now_s: float) -> list[tuple[int, Lease]]:
        """Let every lease lapse whose time is over, and return them with their connections."""
        over = [
            (key, lease)
            for key, lease in self._leases.items()
            if lease.active and lease.expires_s <= now_s
        ]
        for _, lease in over:
            self._count_unproven(lease, now_s)
            suspend(lease)
        return over

    def next_expiry_s(self) -> float:
        """When the next lease lapses; inf if none is active."""
        return min((one.expires_s for one in self._leases.values() if one.active), default=math.inf)

    def release(self, key: int, now_s: float | None = None) -> Lease | None:
        """End the lease of `key`, if it has one."""
        lease = self._leases.pop(key, None)
        if lease is not None and now_s is not None:
            self._count_unproven(lease, now_s)
        return lease

    def get(self, key: int) -> Lease | None:
        """The lease of `key`, if it has one."""
        return self._leases.get(key)

    def holding(self, device: str) -> tuple[int, Lease] | None:
        """The active lease of a device, with its connection."""
        for key, lease in self._leases.items():
            if lease.active and device in lease.devices:
                return key, lease
        return None

    def all(self) -> list[Lease]:
        """Every lease, lapsed ones included."""
        return list(self._leases.values())

    def _count_unproven(self, lease: Lease, now_s: float) -> None:
        """Remember for how long GPUs were held without a control step."""
        if lease.sequence >= 0 or not lease.active:
            return
        for device in lease.devices:
            owner = (lease.peer.uid, device)
            self._debts[owner] = (self._debt_s(owner, now_s) + now_s - lease.since_s, now_s)
        if len(self._debts) > MAX_DEBTORS:
            self._debts = {
                owner: debt
                for owner, debt in self._debts.items()
                if self._debt_s(owner, now_s) > 0.0
            }

    def _debt_s(self, owner: tuple[int, str], now_s: float) -> float:
        debt_s, at_s = self._debts.get(owner, (0.0, now_s))
        return max(0.0, debt_s - DEBT_DECAY * (now_s - at_s))

    def _refuse_in_debt(self, peer: Peer, devices: Iterable[str], now_s: float) -> None:
        for device in devices:
            over_s = self._debt_s((peer.uid, device), now_s) - MAX_DEBT_S
            if over_s > 0.0:
                raise LeaseRefusedError(
                    f"uid {peer.uid} has held {device} again and again without a control step. "
                    f"Send a command within the lease; try again in {over_s / DEBT_DECAY:.0f} s.",
                    transient=True,
                )

    def _rule_for(self, peer: Peer, devices: Iterable[str]) -> AccessRule:
        wanted = set(devices)
        mine = [rule for rule in self._rules if rule.admits(peer)]
        fitting = [rule for rule in mine if rule.gpus is None or wanted <= rule.gpus]
        if not fitting:
            raise LeaseRefusedError(
                f"uid {peer.uid} may not control {', '.join(sorted(wanted))}. Add them to an "
                "[[allow]] rule of the daemon's configuration."
            )
        return max(fitting, key=lambda rule: min(rule.max_mhz, 1e9) - rule.min_mhz)

    def _refuse_taken(self, devices: Iterable[str]) -> None:
        for device in devices:
            held = self.holding(device)
            if held is not None:
                raise LeaseRefusedError(
                    f"{device} belongs to domain {held[1].domain!r} of pid {held[1].peer.pid}. "
                    "One owner a clock domain: stop that one first."
                )


def suspend(lease: Lease) -> None:
    """Take the devices from a lease until its next command."""
    lease.expires_s = -math.inf
    lease.target_mhz = math.nan
