"""The actuator as a linear system: a delay, then a lag, sampled once an iteration.

A command is given at the start of an iteration and comes into force some time later, in the middle
of one. What an iteration sees is the mean clock over it, so a delay of m and a fraction p samples
is the filter ``(1 - p) z^-m + p z^-(m+1)``, and a first-order lag is averaged likewise: nothing is
approximated (Astrom, Wittenmark, "Computer-Controlled Systems", 3rd edition 1997, section 2.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import control
import numpy as np

from voltana.errors import invalid

if TYPE_CHECKING:
    from voltana.plant.cluster import ClusterSpec

COMMAND = "clock_command"
"""Name of the actuator's input, MHz; its output is `voltana.analysis.decode_model.CLOCK`."""

_MEAN_CALL = math.exp(0.43**2 / 2)
"""Mean over median of the clock call's latency, whose logarithm deviates by 0.43."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actuation:
    """How long a clock command takes.

    Attributes:
        delay_s: Time until anything happens: the driver's call, and settling as the plant has it.
        lag_s: Time constant of a gradual approach after that; 0 where the clock jumps.

    Raises:
        ConfigError: If one is negative or not finite.
    """

    delay_s: float
    lag_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("delay_s", "lag_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise invalid(name, getattr(self, name), "0 s or more, finite", "0 is ideal.")

    @classmethod
    def of(cls, cluster: ClusterSpec) -> Actuation:
        """The simulated boards of a cluster: a call and a settling time, then a jump."""
        settle_s = cluster.engine.settle_s
        if settle_s is None:
            settle_s = cluster.hardware.clock_settle_s
        return cls(delay_s=_MEAN_CALL * cluster.hardware.clock_call_s + settle_s)

    def system(self, dt: float, output: str) -> Any:
        """Discrete transfer function from `COMMAND` to `output`, as a state space.

        Args:
            dt: Sample time, s.
            output: Name of the clock in force.
        """
        whole = math.floor(self.delay_s / dt + 1e-9)
        part = max(0.0, self.delay_s / dt - whole)
        z = control.tf([1, 0], [1], dt=dt)
        # Of a step, the first iteration that sees it sees `first`, and the next lacks `missing`.
        first, missing, kept = 1.0 - part, 0.0, 0.0
        if self.lag_s > 0:
            lags = self.lag_s / dt
            kept = math.exp(-1.0 / lags)
            first += lags * math.expm1(-(1.0 - part) / lags)
            missing = lags * (1.0 - kept) * math.exp(-(1.0 - part) / lags)
        seen = ((first * (z - 1) + 1) * (z - kept) - missing * (z - 1)) / (z * (z - kept))
        system = control.ss(control.minreal(seen, verbose=False)) * _register(whole, dt)
        return control.ss(system, inputs=[COMMAND], outputs=[output], name="actuator")


def _register(samples: int, dt: float) -> Any:
    """A delay of whole samples, as a shift register: exact, however long."""
    if not samples:
        return control.ss([], [], [], [[1.0]], dt=dt)
    enter, leave = np.eye(samples, 1), np.eye(samples)[-1:]
    return control.ss(np.eye(samples, k=-1), enter, leave, [[0.0]], dt=dt)
