"""A second vendor's driver, in memory: what keeps the port honest about there being more than one.

It differs from NVML where a vendor may: names of boards, codes, units and a partition mode of its
own. State lives in a `Rack`, so that settings outlive the drivers that made them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voltana_actuatord.drivers.port import PowerRange, Reason
from voltana_actuatord.faults import (
    DriverArgumentError,
    DriverError,
    NoSuchGpuError,
    PartitionedGpuError,
    PermissionDeniedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE_MHZ = tuple(range(500, 2101, 100))
IDLE_W, FULL_W = 90.0, 750.0


@dataclass
class Card:
    """One board: its settings, and what is wrong with it."""

    uuid: str
    lock_mhz: int | None = None
    cap_w: int = 750
    spent_uj: int = 0
    since_ns: int = field(default_factory=time.monotonic_ns)
    partitions: int = 1
    privileged: bool = True
    locks: list[int] = field(default_factory=list)


class Rack:
    """A machine with cards of that vendor."""

    def __init__(self, cards: int = 2) -> None:
        self.cards = [Card(f"card-7e{number:02d}-ca5e") for number in range(cards)]

    def open(self) -> CardDriver:
        """Open its driver."""
        return CardDriver(self)


class CardDriver:
    """The vendor's driver; satisfies `GpuDriver`."""

    gpu_class: Callable[[Card, str], CardGpu]

    def __init__(self, rack: Rack) -> None:
        self.rack = rack

    def gpu(self, name: str | int) -> CardGpu:
        cards = self.rack.cards
        found = [card for card in cards if card.uuid == name]
        if isinstance(name, int) and 0 <= name < len(cards):
            found = [cards[name]]
        if not found:
            raise NoSuchGpuError(f"card {name} is not there (E-NODEV). Ask cardctl list.", 0xE6)
        return self.gpu_class(found[0], f"card {name}" if isinstance(name, int) else name)

    def count(self) -> int:
        return len(self.rack.cards)

    def version(self) -> str:
        return "cards 1.0"

    def close(self) -> None:
        """Nothing is held."""


class CardGpu:
    """One card; satisfies `Gpu`."""

    def __init__(self, card: Card, label: str) -> None:
        self.card, self.label = card, label
        self.uuid = card.uuid

    def name(self) -> str:
        return "Card 900X"

    def remedy(self, kind: type[DriverError]) -> str:
        return f"Run cardctl explain {kind.__name__}."

    def clocks_mhz(self) -> tuple[float, ...]:
        return tuple(map(float, TABLE_MHZ))

    def lock(self, min_mhz: float, max_mhz: float) -> None:
        self._privileged()
        if min_mhz > max_mhz or not {min_mhz, max_mhz} <= set(TABLE_MHZ):
            raise DriverArgumentError(f"{self.label}: clock {max_mhz:g} (E-INVAL). See the table.")
        self._count()
        self.card.lock_mhz = round(max_mhz)
        self.card.locks.append(round(max_mhz))

    def reset(self) -> None:
        self._privileged()
        self._count()
        self.card.lock_mhz = None

    def in_force_mhz(self) -> float:
        return self.clock_mhz()

    def unlocked_mhz(self) -> float:
        return math.inf

    def event_reasons(self) -> frozenset[Reason]:
        return frozenset() if self.card.lock_mhz is None else frozenset({Reason.SETTING})

    def keeps_settings(self) -> bool:
        return True

    def refuse_partitioned(self) -> None:
        if self.card.partitions > 1:
            remedy = self.remedy(PartitionedGpuError)
            raise PartitionedGpuError(f"{self.label} is split into partitions. {remedy}")

    def clock_mhz(self) -> float:
        return float(self.card.lock_mhz or TABLE_MHZ[-1])

    def power_w(self) -> float:
        share = self.clock_mhz() / TABLE_MHZ[-1]
        return min(IDLE_W + (FULL_W - IDLE_W) * share**2, float(self.card.cap_w))

    def energy_j(self) -> float:
        self._count()
        return self.card.spent_uj / 1e6

    def power_limit_w(self) -> float:
        return float(self.card.cap_w)

    def power_range(self) -> PowerRange:
        return PowerRange(min_w=300.0, max_w=800.0, default_w=750.0)

    def set_power_limit(self, watts: float) -> None:
        self._privileged()
        if not 300 <= watts <= 800:
            raise DriverArgumentError(f"{self.label}: {watts:g} W (E-INVAL). Allowed: 300-800 W.")
        self._count()
        self.card.cap_w = round(watts)

    def _count(self) -> None:
        now_ns = time.monotonic_ns()
        self.card.spent_uj += round(self.power_w() * (now_ns - self.card.since_ns) / 1e3)
        self.card.since_ns = now_ns

    def _privileged(self) -> None:
        if not self.card.privileged:
            raise PermissionDeniedError(f"{self.label}: E-PERM. Join the group cards.")


CardDriver.gpu_class = CardGpu
