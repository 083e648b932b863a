"""What a GPU's process looks at before a lease, and during one: reads only."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.gpulink import Examined
from voltana_actuatord.faults import DriverError, GpuLostError, NoSuchGpuError
from voltana_actuatord.wishes import foreign_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.daemon.inboxes import GpuJob
    from voltana_actuatord.drivers.port import Gpu
    from voltana_actuatord.driving import GpuDriving

NEAR_W = 1.0


class Examining:
    """Looks at one GPU, and tells what the operator should know of it.

    Args:
        gpu: The GPU.
        driving: Who drives it.
        job: What its process was given.
        answer: Tells the worker.
    """

    def __init__(
        self, gpu: Gpu, driving: GpuDriving, job: GpuJob, answer: Callable[[Examined], None]
    ) -> None:
        self._gpu = gpu
        self._driving = driving
        self._job = job
        self._answer = answer
        self._foreign = ""
        self._limited = ""
        self._default_w: float | None = None

    def before_lease(self) -> bool:
        """Look, and tell; whether the GPU is gone from the driver."""
        refusal, transient, lost = "", False, False
        try:
            with self._job.slot.timed():
                self._gpu.refuse_partitioned()
            foreign = self._driving.foreign_setting()
            self._foreign = foreign_text(self._gpu.label) if foreign else ""
            refusal = "" if self._job.terms.foreign_allowed else self._foreign
            self._limited = self._limit()
        except DriverError as error:
            refusal, transient = str(error), error.transient
            lost = isinstance(error, GpuLostError | NoSuchGpuError)
        self._tell(refusal, transient=transient)
        return lost

    def during_lease(self) -> None:
        """Look whether another tool has changed the power limit, and tell if it has."""
        limited = self._limit()
        if limited != self._limited:
            self._limited = limited
            self._tell("")

    def _limit(self) -> str:
        """What to say of a power limit that is not the default; nothing where it cannot be read."""
        with contextlib.suppress(DriverError), self._job.slot.timed():
            if self._default_w is None:
                self._default_w = self._gpu.power_range().default_w
            limit_w = self._gpu.power_limit_w()
            if abs(limit_w - self._default_w) > NEAR_W:
                return (
                    f"another tool has limited {self._gpu.label} to {limit_w:g} W; its default is "
                    f"{self._default_w:g} W."
                )
        return ""

    def _tell(self, refusal: str, *, transient: bool = False) -> None:
        found = Examined(
            device=self._gpu.uuid,
            clocks_mhz=self._driving.clocks_mhz,
            refusal=refusal,
            transient=transient,
            notes=" ".join(filter(None, (self._foreign, self._limited))),
            state=self._job.slot.state,
        )
        self._answer(found)
