"""Analyses the decode loop of a policy: runs it, identifies it, closes the loop on paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.analysis.actuation import Actuation
from voltana.analysis.agreement import warn_of_margin
from voltana.analysis.controller_model import closed_loop, open_loop
from voltana.analysis.controller_response import ControllerResponse, identify_controller
from voltana.analysis.controller_twin import Probe
from voltana.analysis.decode_model import LATENCY, DecodeModel, linearise
from voltana.analysis.excitation import excited
from voltana.analysis.identification import IdentifiedLatency, fit_latency
from voltana.analysis.margins import Margins, Requirement, margins_of, sampled
from voltana.analysis.minimal import minimal
from voltana.analysis.recording import record_run
from voltana.analysis.request_mix import RequestMix
from voltana.errors import invalid
from voltana.policies import get_policy, with_overrides
from voltana.policies.users_own import blame
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import control

    from voltana.analysis.operating_point import OperatingPoint
    from voltana.analysis.recording import RecordedInstance
    from voltana.evaluation.scenario import Scenario
    from voltana.plant.cluster import ClusterSpec
    from voltana.plant.iteration import PlantModel
    from voltana.plant.workload.trace import Trace

SETTLED_SHARE = 0.5
"""Share of a run that is left out, as the batch is still growing."""

LEAST_SERVED = 0.9
"""Share of the arrivals that is served where loops have settled, up to the noise of a run."""

_EXCITED_S = 200.0
_EXCITATION = 0.05
_LONGEST_RESPONSE = 20000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyAnalysis:
    """The decode loop of a policy around its operating point.

    Attributes:
        policy: Its name.
        instance: The decode instance that was analysed: the one with the most requests.
        model: The instance, linearised.
        identified: Its latency as identified from an excited run; None where it has but one clock.
        actuation: How long a clock command takes.
        response: The controller, identified.
        loop: Loop transfer function L, a discrete system of python-control, from the clock command
            to minus the clock demand, with the fewest states.
        closed: The same for the closed loop: from a disturbance of the clock to all signals.
        margins: Of the loop.
        ripple_s: Most that the latency may deviate because clocks come in levels.
        served_share: Rate at which all decode instances served, by Little's law, over that of the
            arrivals; well below 1 where batches or queues were still growing.
    """

    policy: str
    instance: str
    model: DecodeModel
    identified: IdentifiedLatency | None
    actuation: Actuation
    response: ControllerResponse
    loop: control.StateSpace
    closed: control.StateSpace
    margins: Margins
    ripple_s: float
    served_share: float

    @property
    def settled(self) -> bool:
        """Whether the run came to an equilibrium around which anything can be linearised."""
        return self.served_share >= LEAST_SERVED

    @property
    def point(self) -> OperatingPoint:
        """Where the loop works."""
        return self.model.point

    @property
    def sampled(self) -> control.FrequencyResponseData:
        """L at the frequencies that matter, for `control.margin` and its like."""
        return sampled(self.loop)

    @property
    def law(self) -> str:
        """What kind of law the controller is around here, in a few words."""
        channels = [c for c in self.response.model.channels.values() if not c.silent]
        if not channels:
            return "no feedback here"
        if any(channel.drift_mhz and channel.pole == 1.0 for channel in channels):
            return "integrating"
        moving = any(channel.drift_mhz for channel in channels)
        levels = len(self.response.levels_mhz)
        return f"{'with memory' if moving else 'static'}, {levels} level{'s' * (levels != 1)}"

    @property
    def slowest_s(self) -> float:
        """Time constant of the slowest pole of the closed loop's latency; inf where unstable."""
        seen = minimal(self.closed[LATENCY, 0])
        radius = float(np.max(np.abs(seen.poles()), initial=0.0))
        return -self.point.latency_s / math.log(radius) if 0 < radius < 1 else math.inf

    def verdict(self, requirement: Requirement) -> str:
        """Not settled, stable, marginal (with what falls short) or unstable, in a few words."""
        if not self.settled:
            return f"not settled: serves {self.served_share:.0%} of the arrivals"
        if not self.margins.stable:
            return f"unstable: pole of modulus {self.margins.pole_radius:.4g}"
        shortfall = requirement.shortfall(self.margins)
        return f"marginal: {shortfall.partition(' is not')[0]}" if shortfall else "stable"


def analyse_policy(
    scenario: Scenario, name: str, *, progress: Callable[[str, float, int], None] | None = None
) -> PolicyAnalysis:
    """Run a policy of a scenario and analyse the decode loop that it closes.

    Args:
        scenario: What is run, and with what.
        name: One of its policies.
        progress: Called with the policy, simulated seconds and finished requests.

    Raises:
        ConfigError: If there are colocated instances, or the run is too short to say anything.

    Warns:
        MarginWarning: If `control.margin` of its `loop` says something else than its `margins`.
    """
    cluster, plant, trace = scenario.cluster, scenario.plant, scenario.trace
    if cluster.colocated:
        raise invalid(
            "cluster.colocated",
            cluster.colocated,
            "0 here: the analysis is of the loop of a decode instance, and where prompts come "
            "between tokens the clock answers to them as well",
            "Leave --colocated out, and name --decode; docs/colocated.md has the law there.",
        )
    mix, end_s = RequestMix.of(trace), float(trace.arrival_s[-1])
    with blame(name):
        policy = with_overrides(
            get_policy(name), levels=scenario.file.levels, predictor=scenario.file.predictor
        )
        instances = record_run(
            cluster, plant, policy, trace, role=Role.DECODE, seed=scenario.file.seed
        )
    busiest = max(instances, key=lambda instance: float(instance.recording.batch.sum()))
    if progress is not None:
        progress(name, end_s, len(trace))
    half_s = SETTLED_SHARE * end_s
    point = busiest.recording.between(half_s, math.inf).operating_point(mix)
    model = linearise(plant, mix, point)
    probe = Probe(
        latency_noise=max(cluster.engine.latency_noise, 1e-3),
        batch_deviation=math.sqrt(max(point.batch_variance, 1.0)),
    )
    with blame(name):
        response = identify_controller(busiest, plant, point, probe)
    actuation, system = Actuation.of(cluster), model.system
    loop = open_loop(system, actuation, response.model)
    closed = closed_loop(system, actuation, response.model)
    margins = margins_of(loop)
    warn_of_margin(loop, margins)
    return PolicyAnalysis(
        policy=name,
        instance=busiest.name,
        model=model,
        identified=identify(cluster, plant, trace, clock_mhz=point.clock_mhz),
        actuation=actuation,
        response=response,
        loop=loop,
        closed=closed,
        margins=margins,
        ripple_s=_ripple_s(closed, margins, busiest.policy.levels_mhz, response),
        served_share=_served_share(instances, trace, mix, from_s=half_s),
    )


def _served_share(
    instances: Sequence[RecordedInstance], trace: Trace, mix: RequestMix, *, from_s: float
) -> float:
    """Iterations that requests got after `from_s`, over those that the arrivals since ask for."""
    given = sum(float(i.recording.between(from_s, math.inf).batch.sum()) for i in instances)
    arrived = int(np.count_nonzero(trace.arrival_s >= from_s))
    return given / (arrived * mix.stay)


def identify(
    cluster: ClusterSpec, plant: PlantModel, trace: Trace, *, clock_mhz: float
) -> IdentifiedLatency | None:
    """Identify the latency of decode iterations in a run whose clock jumps about `clock_mhz`.

    Args:
        cluster: What serves.
        plant: Latency and power of its boards.
        trace: What arrives.
        clock_mhz: The middle of the excitation.

    Returns:
        None where the clocks around it are all the same one.
    """
    table_mhz = cluster.hardware.clocks_mhz
    low, high = (
        min(table_mhz, key=lambda mhz: abs(mhz - clock_mhz * share))
        for share in (1 - _EXCITATION, 1 + _EXCITATION)
    )
    if low == high:
        return None
    end_s = min(float(trace.arrival_s[-1]), _EXCITED_S)
    recorded = record_run(
        cluster, plant, excited(low, high), trace, role=Role.DECODE, until_s=end_s
    )
    return fit_latency(recorded[0].recording.between(end_s / 3, math.inf))


def _ripple_s(
    closed: Any, margins: Margins, levels_mhz: tuple[float, ...], response: ControllerResponse
) -> float:
    """Bound on what rounding to levels does: the peak gain from the clock to the latency.

    A law in levels is a smooth one plus an error of at most half a gap between levels, whatever
    its timing; the peak gain is the sum of the moduli of the impulse response.
    """
    gaps = np.diff(levels_mhz)
    if response.model.silent or not len(gaps):
        return 0.0
    if not margins.stable:
        return math.inf
    samples = int(min(_LONGEST_RESPONSE, max(100, 7.0 / max(1.0 - margins.pole_radius, 1e-9))))
    impulse = impulse_response(closed, LATENCY, samples)
    used = [
        gap
        for gap, high in zip(gaps, levels_mhz[1:], strict=True)
        if high >= response.levels_mhz[0] and high - gap <= response.levels_mhz[-1]
    ]
    return float(np.abs(impulse).sum() * max(used, default=0.0) / 2)


def impulse_response(system: Any, output: str, samples: int) -> np.ndarray[Any, Any]:
    """Answer of an output to a unit pulse at the one input, shape (samples,)."""
    row = system.output_labels.index(output)
    state, answer = system.B[:, 0], np.empty(samples)
    answer[0] = system.D[row, 0]
    for k in range(1, samples):
        answer[k] = system.C[row] @ state
        state = system.A @ state
    return answer


def step_response(system: Any, output: str, samples: int) -> np.ndarray[Any, Any]:
    """Answer of an output to a unit step at the one input, shape (samples,)."""
    return np.cumsum(impulse_response(system, output, samples))
