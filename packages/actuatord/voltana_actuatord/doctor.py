"""What stands between this machine and controlled clocks, in plain words; and how fast they are.

The examination reads only. The measurement changes clocks, needs the privilege for it, and gives
the default clocks back at its end.
"""

from __future__ import annotations

import enum
import math
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voltana_actuatord.console import daemon_status
from voltana_actuatord.daemon.privileges import CAP_SYS_ADMIN, capabilities
from voltana_actuatord.daemon.restore import restore_gpu
from voltana_actuatord.drivers.nvml import Driver
from voltana_actuatord.errors import ActuatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from voltana_actuatord.drivers.nvml import Gpu

SETTLE_LIMIT_S = 1.0
ENERGY_WATCH_S = 0.3


class Verdict(enum.StrEnum):
    """How a finding bears on controlling clocks."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What was looked at.
        verdict: Whether it is as it should be.
        text: What was found, and the remedy if it is missing.
    """

    subject: str
    verdict: Verdict
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTiming:
    """How long one change of clock takes.

    Attributes:
        from_mhz: Clock before.
        to_mhz: Clock after.
        call_s: Median duration of the driver's call.
        settle_s: Median time from the call's return until the new clock was read back; nan if it
            was not within `SETTLE_LIMIT_S`, as on an idle GPU.
    """

    from_mhz: float
    to_mhz: float
    call_s: float
    settle_s: float


def examine(devices: Sequence[int] | None, socket_path: str) -> Iterator[Finding]:
    """Look at driver, GPUs, privilege and daemon; reads only.

    Args:
        devices: GPUs to look at; None looks at all.
        socket_path: Where the daemon should listen.
    """
    try:
        driver = Driver()
    except ActuatorError as error:
        yield Finding(subject="driver", verdict=Verdict.MISSING, text=str(error))
    else:
        with driver:
            yield Finding(subject="driver", verdict=Verdict.OK, text=f"version {driver.version()}")
            wanted = range(driver.count()) if devices is None else devices
            for index in wanted:
                yield from _examine_gpu(driver, index)
    yield _examine_privilege()
    yield _examine_daemon(socket_path)


def measure(
    gpu: Gpu,
    levels_mhz: Sequence[float],
    *,
    repeats: int = 3,
    now: Callable[[], float] = time.perf_counter,
) -> list[PairTiming]:
    """Time every change between two of `levels_mhz`; the GPU should be busy meanwhile.

    Args:
        gpu: A GPU that nobody else controls; at its default clocks afterwards.
        levels_mhz: Supported clocks, two or more.
        repeats: Changes of every kind.
        now: Reads a clock in seconds.

    Raises:
        PermissionDeniedError: Without root or CAP_SYS_ADMIN.
        DriverError: If the driver refuses for another reason.
    """
    pairs = [(a, b) for a in levels_mhz for b in levels_mhz if a != b]
    timings = []
    try:
        for before, after in pairs:
            taken = [_time_change(gpu, before, after, now)]
            while len(taken) < repeats and not math.isnan(taken[-1][1]):
                taken.append(_time_change(gpu, before, after, now))
            timings.append(
                PairTiming(
                    from_mhz=before,
                    to_mhz=after,
                    call_s=statistics.median(call for call, _ in taken),
                    settle_s=statistics.median(settle for _, settle in taken),
                )
            )
    finally:
        restore_gpu(gpu)
    return timings


def _time_change(
    gpu: Gpu, before_mhz: float, after_mhz: float, now: Callable[[], float]
) -> tuple[float, float]:
    gpu.lock(before_mhz, before_mhz)
    settled_s = _await_clock(gpu, before_mhz, now)
    started_s = now()
    gpu.lock(after_mhz, after_mhz)
    called_s = now()
    if not math.isnan(settled_s):
        settled_s = _await_clock(gpu, after_mhz, now)
    return called_s - started_s, settled_s


def _await_clock(gpu: Gpu, clock_mhz: float, now: Callable[[], float]) -> float:
    started_s = now()
    while abs(gpu.clock_mhz() - clock_mhz) > 1.0:
        if now() - started_s > SETTLE_LIMIT_S:
            return math.nan
    return now() - started_s


def _examine_gpu(driver: Driver, index: int) -> Iterator[Finding]:
    subject = f"GPU {index}"
    try:
        gpu = driver.gpu(index)
        clocks = gpu.clocks_mhz()
        text = f"{gpu.name()}, {len(clocks)} clocks of {clocks[0]:g}-{clocks[-1]:g} MHz"
        yield Finding(subject=subject, verdict=Verdict.OK, text=text)
        gpu.refuse_mig()
    except ActuatorError as error:
        yield Finding(subject=subject, verdict=Verdict.MISSING, text=str(error))
        return
    for look in (_persistence, _now_running, _power_and_energy):
        try:
            yield look(gpu, subject)
        except ActuatorError as error:
            yield Finding(subject=subject, verdict=Verdict.NOTE, text=str(error))


def _persistence(gpu: Gpu, subject: str) -> Finding:
    if gpu.persistence_mode():
        return Finding(subject=subject, verdict=Verdict.OK, text="persistence mode is on")
    return Finding(
        subject=subject,
        verdict=Verdict.MISSING,
        text="persistence mode is off: locked clocks vanish when the last process closes the GPU, "
        "and starting is slow. Run nvidia-persistenced (or `nvidia-smi -pm 1`).",
    )


def _now_running(gpu: Gpu, subject: str) -> Finding:
    reasons = gpu.event_reasons()
    because = f" ({', '.join(sorted(reasons))})" if reasons else ""
    text = f"runs at {gpu.clock_mhz():g} MHz{because}"
    slowed = sorted(reasons - {"idle", "clock setting"})
    if slowed:
        text += ". Controlled clocks may not be reached while that lasts."
    return Finding(subject=subject, verdict=Verdict.NOTE if slowed else Verdict.OK, text=text)


def _power_and_energy(gpu: Gpu, subject: str) -> Finding:
    power_w, before_j = gpu.power_w(), gpu.energy_j()
    started_s = time.perf_counter()
    time.sleep(ENERGY_WATCH_S)
    spent_j, elapsed_s = gpu.energy_j() - before_j, time.perf_counter() - started_s
    text = f"draws {power_w:.0f} W; the energy counter says {spent_j / elapsed_s:.0f} W"
    return Finding(subject=subject, verdict=Verdict.OK, text=text)


def _examine_privilege() -> Finding:
    if os.geteuid() == 0 and capabilities() >> CAP_SYS_ADMIN & 1:
        text = "this user may change clocks itself; engines need not, with the daemon"
        return Finding(subject="privilege", verdict=Verdict.OK, text=text)
    if os.geteuid() == 0:
        text = (
            "root without CAP_SYS_ADMIN, as in an ordinary container: clocks cannot be changed "
            "from here. Run the daemon with `--cap-add SYS_ADMIN` (Kubernetes: a privileged "
            "DaemonSet) and mount its socket here."
        )
    else:
        text = (
            f"uid {os.geteuid()} cannot change clocks itself, and need not: let the daemon's "
            "[[allow]] rule name it."
        )
    place = "a container" if _in_container() else "the host"
    return Finding(subject="privilege", verdict=Verdict.NOTE, text=f"{text} (seen from {place})")


def _examine_daemon(socket_path: str) -> Finding:
    try:
        status = daemon_status(socket_path)
    except ActuatorError as error:
        return Finding(subject="daemon", verdict=Verdict.MISSING, text=str(error))
    active = sum(1 for lease in status["leases"] if lease["active"])
    text = f"answers at {socket_path}; {active} leases are active"
    if status["last_error"]:
        text += f"; its last error: {status['last_error']}"
    return Finding(subject="daemon", verdict=Verdict.OK, text=text)


def _in_container() -> bool:
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    return any(mark.exists() for mark in marks) or "KUBERNETES_SERVICE_HOST" in os.environ
