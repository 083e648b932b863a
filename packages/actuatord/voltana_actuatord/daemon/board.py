"""The GPUs that the worker has open, what each domain achieved, and which GPUs must rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana_actuatord.channel import GpuChannel, Wish
from voltana_actuatord.faults import LeaseRefusedError
from voltana_actuatord.protocol import Ack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from voltana_actuatord.channel import Result
    from voltana_actuatord.daemon.journal import Journal
    from voltana_actuatord.drivers.nvml import Driver, Gpu

COOL_DOWN_S = 1.0
"""How long a GPU is left alone after a failure, so that a broken one is not hammered."""


@dataclass(slots=True)
class Settling:
    """A change of clock of a domain that is under way.

    Attributes:
        key: The connection that asked.
        sequence: Its step.
        target_mhz: The clock.
        waiting: Devices that have not reported.
        clock_mhz: Slowest clock read back so far.
        notes: Reasons given so far.
    """

    key: int
    sequence: int
    target_mhz: float
    waiting: set[int]
    clock_mhz: float = math.inf
    notes: str = ""


class Board:
    """Opens GPUs when they are first asked for and hands wishes to their channels.

    Args:
        driver: The driver.
        journal: What is locked.
        report: Called from the channels' threads.
        quarantined: UUIDs that are not at their defaults and must not be touched by the worker.
    """

    def __init__(
        self,
        driver: Driver,
        journal: Journal,
        report: Callable[[Result], None],
        quarantined: Iterable[str] = (),
    ) -> None:
        self._driver = driver
        self._journal = journal
        self._report = report
        self._quarantined = set(quarantined)
        self._channels: dict[int, GpuChannel] = {}
        self._gpus: dict[int, Gpu] = {}
        self._resting_until_s: dict[int, float] = {}
        self._tickets = 0
        self._settling: dict[int, Settling] = {}

    def open(self, devices: Sequence[int]) -> tuple[float, ...]:
        """Make sure that the devices may be controlled, and return the clocks that they share.

        Raises:
            LeaseRefusedError: If one is being restored.
            DriverError: If one does not exist, is split by MIG, or they share no clock.
        """
        for index in devices:
            if index not in self._channels:
                self._open(index)
            self._gpus[index].refuse_mig()
        common = set(self._channels[devices[0]].clocks_mhz)
        for index in devices[1:]:
            common &= set(self._channels[index].clocks_mhz)
        if not common:
            raise LeaseRefusedError(
                f"GPUs {list(devices)} share no clock. Put unlike GPUs in domains of their own."
            )
        return tuple(sorted(common))

    def refuse_unready(self, devices: Iterable[int], now_s: float) -> None:
        """Check that devices are at their defaults and need no rest.

        Raises:
            LeaseRefusedError: If one is not ready.
        """
        for index in devices:
            if not self._channels[index].at_default:
                raise LeaseRefusedError(
                    f"GPU {index} is being restored to its default clocks. Try again.",
                    transient=True,
                )
            if self._resting_until_s.get(index, 0.0) > now_s:
                raise LeaseRefusedError(
                    f"GPU {index} is left at its default clocks for a moment after a failure or an "
                    "operator's restore. Try again."
                )

    def rest(self, devices: Iterable[int], until_s: float) -> None:
        """Leave devices alone until a time."""
        for index in devices:
            self._resting_until_s[index] = max(until_s, self._resting_until_s.get(index, 0.0))

    def set_clock(self, key: int, sequence: int, devices: Sequence[int], clock_mhz: float) -> None:
        """Ask for a clock on all devices of a domain."""
        self._tickets += 1
        self._settling[key] = Settling(key, sequence, clock_mhz, set(devices))
        wish = Wish(clock_mhz, self._tickets)
        for index in devices:
            self._channels[index].ask(wish)

    def restore(self, devices: Iterable[int]) -> None:
        """Ask for the default clocks."""
        for index in devices:
            channel = self._channels.get(index)
            if channel is not None:
                channel.ask(Wish(None))

    def forget(self, key: int) -> None:
        """Expect no acknowledgement for a connection any more."""
        self._settling.pop(key, None)

    def settled(self, key: int, result: Result) -> Ack | None:
        """Take a device's report; the acknowledgement once all devices of the domain are there."""
        change = self._settling.get(key)
        if change is None or result.wish.clock_mhz != change.target_mhz:
            return None
        change.waiting.discard(result.device)
        change.clock_mhz = min(change.clock_mhz, result.clock_mhz)
        if result.note and result.note not in change.notes:
            change.notes = f"{change.notes}; {result.note}".lstrip("; ")
        if change.waiting:
            return None
        return Ack(change.sequence, change.target_mhz, change.clock_mhz, True, change.notes)

    def renewed(self, key: int, sequence: int) -> Ack | None:
        """The acknowledgement of a step that keeps the clock; None while it is settling."""
        change = self._settling.get(key)
        if change is None:
            return None
        change.sequence = sequence
        if change.waiting:
            return None
        return Ack(sequence, change.target_mhz, change.clock_mhz, True, change.notes)

    def release_quarantine(self, uuid: str) -> None:
        """A GPU has been restored by somebody else."""
        self._quarantined.discard(uuid)

    def hung(self, now_s: float, limit_s: float) -> int | None:
        """A GPU whose driver call takes longer than `limit_s`, if there is one."""
        for index, channel in self._channels.items():
            if channel.busy_s(now_s) > limit_s:
                return index
        return None

    def all_default(self) -> bool:
        """Whether every GPU that was opened is at its default clocks."""
        return all(channel.at_default for channel in self._channels.values())

    def indices(self) -> list[int]:
        """GPUs that were opened."""
        return sorted(self._channels)

    def is_default(self, index: int) -> bool:
        """Whether a GPU that was opened is at its default clocks."""
        return self._channels[index].at_default

    def stop(self) -> None:
        """End all threads."""
        for channel in self._channels.values():
            channel.stop()

    def _open(self, index: int) -> None:
        gpu = self._driver.gpu(index)
        gpu.refuse_mig()
        uuid = gpu.uuid()
        if uuid in self._quarantined:
            raise LeaseRefusedError(
                f"GPU {index} could not be restored to its default clocks yet; it is tried every "
                "few seconds. See the daemon's log."
            )
        self._gpus[index] = gpu
        self._channels[index] = GpuChannel(gpu, self._journal, self._report)
