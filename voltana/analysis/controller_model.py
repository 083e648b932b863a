"""The linear model of a controller, and the loop that it closes.

Every controller of this library, near its operating point, answers a step in what it sees with a
jump, a drift and perhaps a kick: it is static (a lookup), or integrates, or follows with a lag. So
each channel is modelled as

    C(z) = gain + drift z^-delay / (z - pole) + kick (1 - z^-1)

which holds a PID exactly (pole 1), a static law (drift 0) and a filtered one (pole below 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import control
import numpy as np

from voltana.analysis.actuation import COMMAND
from voltana.analysis.decode_model import BATCH, CLOCK, KV_TOKENS, LATENCY
from voltana.analysis.minimal import minimal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.analysis.actuation import Actuation
    from voltana.controllers.pid import PidGains
    from voltana.values import FloatArray

MEASURED = "measured_latency"
"""The latency of the last finished iteration, s: what a controller sees of it."""

DEMAND = "clock_demand"
"""What the controller asks for, MHz."""

SEEN = {LATENCY: MEASURED, BATCH: BATCH, KV_TOKENS: KV_TOKENS}
"""What a controller sees of each output of the plant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Answer of a controller to one of its inputs.

    Attributes:
        gain_mhz: Jump of the clock per unit step of the input.
        drift_mhz: Its growth per sample, at first.
        pole: 1 where it goes on growing (an integrator), below where it comes to rest.
        kick_mhz: What the first sample has on top of the jump.
        delay: Samples until the drift begins, beyond the first.
    """

    gain_mhz: float = 0.0
    drift_mhz: float = 0.0
    pole: float = 0.0
    kick_mhz: float = 0.0
    delay: int = 0

    @property
    def silent(self) -> bool:
        """Whether it never answers."""
        return self.gain_mhz == self.drift_mhz == self.kick_mhz == 0.0

    @property
    def terms(self) -> int:
        """Terms that are not 0."""
        return sum(map(bool, (self.gain_mhz, self.drift_mhz, self.kick_mhz)))

    def step(self, samples: int) -> FloatArray:
        """Answer to a unit step, shape (samples,)."""
        answer = np.full(samples, self.gain_mhz)
        answer[:1] += self.kick_mhz
        return answer + self.drift_mhz * drift_shape(self.pole, self.delay, samples)

    def system(self, dt: float, *, source: str, target: str) -> Any:
        """The channel as a state space with named signals."""
        # Written down rather than converted from polynomials, which lose very small gains.
        drifting = self.delay + 1 if self.drift_mhz else 0
        states = drifting + bool(self.kick_mhz)
        law, enter, leave = np.zeros((states, states)), np.zeros((states, 1)), np.zeros((1, states))
        if drifting:
            law[:drifting, :drifting] = np.eye(drifting, k=-1)
            law[0, 0], enter[0], leave[0, drifting - 1] = self.pole, 1.0, self.drift_mhz
        if self.kick_mhz:
            enter[-1], leave[0, -1] = 1.0, -self.kick_mhz
        jump = [[self.gain_mhz + self.kick_mhz]]
        return control.ss(
            law, enter, leave, jump, dt, inputs=[source], outputs=[target], name=target,
            remove_useless_states=False,
        )  # fmt: skip


def drift_shape(pole: float, delay: int, samples: int) -> FloatArray:
    """Step response of z^-delay / (z - pole), shape (samples,)."""
    after = np.maximum(np.arange(samples) - delay, 0)
    if pole == 1.0:
        return after.astype(float)
    shape: FloatArray = (1.0 - np.power(pole, after)) / (1.0 - pole)
    return shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerModel:
    """A controller near its operating point.

    Attributes:
        channels: Its answer to each output of the plant; one that is missing is ignored.
    """

    channels: Mapping[str, Channel] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def silent(self) -> bool:
        """Whether it answers to nothing: then there is no loop."""
        return all(channel.silent for channel in self.channels.values())


def pid_model(gains: PidGains, *, target_s: float, dt: float) -> ControllerModel:
    """The PID of `voltana.controllers.pid`, between its limits: exact.

    Args:
        gains: Its gains over the relative error.
        target_s: Its set point, by which the error is divided.
        dt: Time between two samples, s.
    """
    per_sample = gains.integral_mhz_per_s * dt / target_s
    latency = Channel(
        gain_mhz=gains.proportional_mhz / target_s + per_sample,
        drift_mhz=per_sample,
        pole=1.0,
        kick_mhz=gains.derivative_mhz_s / (dt * target_s),
    )
    return ControllerModel(channels={LATENCY: latency})


def open_loop(
    plant: control.StateSpace, actuation: Actuation, controller: ControllerModel
) -> control.StateSpace:
    """The loop transfer function L, cut at the clock command.

    A controller sees the batch of the coming iteration, but the latency only of the last one.

    Args:
        plant: From `CLOCK` to `LATENCY`, `BATCH` and `KV_TOKENS`.
        actuation: How long a command takes.
        controller: What closes the loop.

    Returns:
        From `COMMAND` to minus `DEMAND`, discrete, so that the loop is 1 + L; with the fewest
        states, so that an integrator that moves nothing is no part of it.
    """
    blocks = _blocks(plant, actuation, controller)
    loop = control.interconnect(blocks, inputs=[COMMAND], outputs=[DEMAND], name="loop", **_LENIENT)
    return minimal(control.ss(-loop, inputs=[COMMAND], outputs=[DEMAND], name="loop"))


def closed_loop(
    plant: control.StateSpace, actuation: Actuation, controller: ControllerModel
) -> control.StateSpace:
    """From a disturbance of the clock in MHz to all signals of the plant, with the loop closed.

    Args:
        plant: As of `open_loop`.
        actuation: Likewise.
        controller: Likewise.
    """
    total = control.summing_junction(
        inputs=[DEMAND, "clock_disturbance"], output=COMMAND, name="sum", dt=plant.dt
    )
    return control.interconnect(
        [*_blocks(plant, actuation, controller), total],
        inputs=["clock_disturbance"],
        outputs=[CLOCK, LATENCY, BATCH, KV_TOKENS],
        name="closed_loop",
        **_LENIENT,
    )


_LENIENT = {"warn_duplicate": False, "check_unused": False}


def _blocks(plant: Any, actuation: Actuation, controller: ControllerModel) -> list[Any]:
    dt = plant.dt
    sensor = control.ss(
        control.ss([[0]], [[1]], [[1]], [[0]], dt=dt), inputs=[LATENCY], outputs=[MEASURED],
        name="sensor",
    )  # fmt: skip
    blocks = [actuation.system(dt, CLOCK), plant, sensor]
    parts = []
    for output, seen in SEEN.items():
        channel = controller.channels.get(output, Channel())
        parts.append(f"demand_by_{output}")
        blocks.append(channel.system(dt, source=seen, target=parts[-1]))
    blocks.append(control.summing_junction(inputs=parts, output=DEMAND, name="demand", dt=dt))
    return blocks
