"""`NvidiaSmiActuator`: a subprocess a clock change, the slow baseline that most scripts use."""

from __future__ import annotations

import math
import subprocess
from typing import TYPE_CHECKING

from voltana.actuators.local import LocalActuator
from voltana_actuatord.drivers.nvml_faults import nvml_remedy
from voltana_actuatord.drivers.port import Reason
from voltana_actuatord.faults import DriverBusyError, DriverError, DriverNotLoadedError

if TYPE_CHECKING:
    from voltana.values import Domain

CALL_LIMIT_S = 10.0


class SmiGpu:
    """One GPU, driven by calls of nvidia-smi.

    Args:
        uuid: Its UUID.
        program: The nvidia-smi to run.
    """

    def __init__(self, uuid: str, program: str) -> None:
        self.uuid = self.label = uuid
        self._program = program

    def name(self) -> str:
        """Name of the board."""
        return self._query("name")

    def remedy(self, kind: type[DriverError]) -> str:
        """See `GpuIdentity.remedy`."""
        return nvml_remedy(kind, self.uuid)

    def clocks_mhz(self) -> tuple[float, ...]:
        """Supported SM clocks, ascending."""
        text = self._run("--query-supported-clocks=gr", "--format=csv,noheader,nounits")
        return tuple(sorted({float(line) for line in text.split()}))

    def lock(self, min_mhz: float, max_mhz: float) -> None:
        """Hold the SM clock within a range."""
        self._run(f"--lock-gpu-clocks={min_mhz:.0f},{max_mhz:.0f}")

    def reset(self) -> None:
        """Give the default clocks back."""
        self._run("--reset-gpu-clocks")

    def in_force_mhz(self) -> float:
        """SM clock that runs now."""
        return float(self._query("clocks.sm"))

    def unlocked_mhz(self) -> float:
        """The application clock; boards without one say so in words."""
        try:
            return float(self._query("clocks.applications.graphics"))
        except ValueError:
            return math.inf

    def event_reasons(self) -> frozenset[Reason]:
        """Whether power or temperature slow the clock."""
        power, heat = "clocks_event_reasons.sw_power_cap", "clocks_event_reasons.hw_slowdown"
        answers = self._query(f"{power},{heat}").split(",")
        names = (Reason.POWER_CAP, Reason.HARDWARE)
        return frozenset(n for n, a in zip(names, answers, strict=True) if a.strip() == "Active")

    def _query(self, fields: str) -> str:
        return self._run(f"--query-gpu={fields}", "--format=csv,noheader,nounits").strip()

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._program, "-i", self.uuid, *arguments],
                capture_output=True,
                text=True,
                timeout=CALL_LIMIT_S,
                check=False,
            )
        except FileNotFoundError:
            raise DriverNotLoadedError(
                f"{self._program} was not found. Install the NVIDIA driver's utilities."
            ) from None
        except subprocess.TimeoutExpired:
            raise DriverBusyError(f"{self._program} took over {CALL_LIMIT_S:g} s.") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise DriverError(f"{self._program} {' '.join(arguments)} failed: {said}")
        return done.stdout


class NvidiaSmiActuator(LocalActuator):
    """Locks clocks by running nvidia-smi; needs root.

    Args:
        domain: The GPUs that change clock as one.
        program: The nvidia-smi to run.

    Raises:
        DriverError: If it cannot be run or fails.
    """

    def __init__(self, domain: Domain, *, program: str = "nvidia-smi") -> None:
        super().__init__([SmiGpu(uuid, program) for uuid in domain.devices])
