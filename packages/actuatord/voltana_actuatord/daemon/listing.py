"""Leases as a status message has them: as JSON values, and no more of them than fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana_actuatord.gpu_names import MAX_UUID
from voltana_actuatord.protocol import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voltana_actuatord.daemon.leases import Lease

LISTED_BYTES = MAX_BYTES // 2
"""What leases may take of a status message."""

_ENTRY_BYTES = 320
_DEVICE_BYTES = MAX_UUID + 4
"""Bounds of what an entry, and a GPU in it, take as JSON."""


def listed(leases: Iterable[Lease], now_s: float) -> list[dict[str, Any]]:
    """Leases as JSON values, those that hold their GPUs first.

    Args:
        leases: All of them.
        now_s: The time.
    """
    entries, left_bytes = [], LISTED_BYTES
    for lease in sorted(leases, key=lambda one: not one.active):
        left_bytes -= _ENTRY_BYTES + _DEVICE_BYTES * len(lease.devices)
        if left_bytes < 0:
            break
        entries.append(_entry(lease, now_s))
    return entries


def _entry(lease: Lease, now_s: float) -> dict[str, Any]:
    return {
        "domain": lease.domain,
        "devices": lease.devices,
        "pid": lease.peer.pid,
        "uid": lease.peer.uid,
        "active": lease.active,
        "left_s": round(max(0.0, lease.expires_s - now_s), 3) if lease.active else 0.0,
        "sequence": lease.sequence,
        "target_mhz": lease.target_mhz if lease.target_mhz > 0 else None,
    }
