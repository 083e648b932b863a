"""Identifies any controller as a linear system, by what it answers to steps.

Nothing is assumed of its code: a twin of the controller, as a run left it, sees the same noisy
observations as the original, but for a step in one of them. The mean difference between what the
two ask for is the step response. Averaged over noise of the size that was recorded, a law that only
knows a few levels has a slope as well: its describing function for such inputs (Gelb, Vander Velde,
"Multiple-Input Describing Functions and Nonlinear System Design", McGraw-Hill 1968, chapter 7). The
noise acts as dither, so the slope holds for deviations of about its size and larger, not for
smaller ones, which no level answers.

The twins learn as well where the policy does, so what a wrong forecast does to the clock through
the predictor is part of the answer to latency.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.analysis.controller_model import Channel, ControllerModel, drift_shape
from voltana.analysis.decode_model import BATCH, KV_TOKENS, LATENCY
from voltana.levels import resolve
from voltana.values import UNBOUNDED, Load, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.analysis.operating_point import OperatingPoint
    from voltana.analysis.recording import RecordedInstance
    from voltana.plant.iteration import PlantModel
    from voltana.values import Decision, FloatArray

_POLES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.993)

_DELAYS = (0, 30, 60, 90)
_WORTH = 0.05
"""Share of the mean square error that a better structure has to explain."""

_WORTH_INTEGRATING = 0.3

_SMALL = 1e-3
_AT_REST = 0.1
_FEW_LEVELS = 3
"""With so few levels most of them are limits, and a limit is where the law works."""

_WARM_UP = 20
_APPROACH = 200
_NEAR = 0.01
_LEAD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How a controller is excited.

    Attributes:
        samples: Length of the step responses.
        replicates: Pairs of twins.
        latency_noise: Relative deviation of the latencies shown.
        latency_step: Step of the latency, relative.
        batch_deviation: Deviation of the batch, and its step, requests.
        seed: Of the noise.
    """

    samples: int = 400
    replicates: int = 16
    latency_noise: float = 0.03
    latency_step: float = 0.05
    batch_deviation: float = 8.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredStep:
    """Mean answer of a controller to a unit step of one input, shape (samples,) each.

    Attributes:
        mean_mhz: What it asks for.
        error_mhz: Standard error of that.
        counts: Pairs of twins that were away from their limits.
        size: Step that was made, in units of the input.
    """

    mean_mhz: FloatArray
    error_mhz: FloatArray
    counts: FloatArray
    size: float

    @classmethod
    def of(cls, answers: Sequence[FloatArray], size: float) -> MeasuredStep:
        """The mean over replicates, nan where one does not count."""
        table = np.stack(answers)
        known = np.isfinite(table)
        counts = known.sum(axis=0).astype(float)
        mean = np.where(known, table, 0.0).sum(axis=0) / np.maximum(counts, 1)
        variance = np.where(known, (table - mean) ** 2, 0.0).sum(axis=0) / np.maximum(counts, 1)
        error = np.sqrt(variance / np.maximum(counts - 1, 1))
        return cls(mean_mhz=mean, error_mhz=error, counts=counts, size=size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ControllerResponse:
    """A controller identified around an operating point.

    Attributes:
        model: The linear model.
        steps: Measured answer to a step of each input.
        fit: How much of all steps the model explains: 1 - NRMSE, in (-inf, 1].
        levels_mhz: Levels that it chose among while it was probed.
    """

    model: ControllerModel
    steps: Mapping[str, MeasuredStep]
    fit: float
    levels_mhz: tuple[float, ...]


def identify_controller(
    instance: RecordedInstance, plant: PlantModel, point: OperatingPoint, probe: Probe
) -> ControllerResponse:
    """Probe the controller of a recorded decode instance; the instance itself is left as it is.

    Args:
        instance: With its controller as the run left it.
        plant: Latency of the iterations that the twins learn from.
        point: Where the loop works.
        probe: How to excite it.
    """
    context = point.kv_tokens / point.batch
    sizes = {
        LATENCY: probe.latency_step * point.latency_s,
        BATCH: max(1.0, round(probe.batch_deviation)),
        KV_TOKENS: max(1.0, probe.batch_deviation * context),
    }
    answers: dict[str, list[FloatArray]] = {name: [] for name in sizes}
    chosen: set[float] = set()
    for replicate in range(probe.replicates):
        noise = _Noise.draw(probe, replicate)
        twin = _Twin.of(instance, plant, point)
        twin.warm_up(noise)
        base = copy.deepcopy(twin).answers(noise, {})
        chosen.update(base.tolist())
        # Up and down in turn, so that an asymmetric law shows its mean slope.
        sign = 1.0 if replicate % 2 else -1.0
        for name, size in sizes.items():
            moved = copy.deepcopy(twin).answers(noise, {name: sign * size})
            free = _free(base, moved, twin.levels_mhz)
            answers[name].append(np.where(free, (moved - base) / (sign * size), np.nan))
    measured = {name: MeasuredStep.of(answers[name], sizes[name]) for name in sizes}
    channels = {name: fit_channel(step) for name, step in measured.items()}
    return ControllerResponse(
        model=ControllerModel(channels=channels),
        steps=measured,
        fit=_explained(measured, channels),
        levels_mhz=tuple(sorted(chosen)),
    )


def fit_channel(step: MeasuredStep) -> Channel:
    """The simplest channel that explains a measured step response.

    A term more has to explain more than noise would, and one that never comes to rest much more.
    """
    known = step.counts > 0
    if not known.any() or np.abs(step.mean_mhz[known]).max() * step.size < _SMALL:
        return Channel()
    weights = np.sqrt(step.counts)
    noise = float(np.sum((weights * step.error_mhz) ** 2))
    best, least = Channel(), math.inf
    for columns, pole, delay in _candidates(len(weights)):
        if pole < 1.0 and pole ** int(known.sum()) > _AT_REST:
            continue  # where it comes to rest would be guessed
        matrix = np.stack(columns, axis=1)
        values = np.linalg.lstsq(matrix * weights[:, None], step.mean_mhz * weights, rcond=None)[
            0
        ].tolist()
        error = float(np.sum((weights * (step.mean_mhz - matrix @ values)) ** 2))
        worth = _WORTH if pole < 1.0 else _WORTH_INTEGRATING
        if error < (1.0 - worth) * least - noise * (len(columns) > best.terms):
            least = error
            gain, drift, kick = (*values, 0.0, 0.0)[:3]
            best = Channel(
                gain_mhz=gain,
                drift_mhz=drift,
                pole=pole if len(columns) > 1 else 0.0,
                kick_mhz=kick,
                delay=delay,
            )
    return best


def _candidates(samples: int) -> list[tuple[list[FloatArray], float, int]]:
    """Structures to try, the simplest first: columns of their step responses, pole and delay."""
    ones, kick = np.ones(samples), np.zeros(samples)
    kick[0] = 1.0
    tried: list[tuple[list[FloatArray], float, int]] = [([ones], 0.0, 0)]
    for delay in _DELAYS:
        if delay < samples // 2:
            tried += [([ones, drift_shape(p, delay, samples)], p, delay) for p in _POLES]
    tried.append(([ones, drift_shape(1.0, 0, samples)], 1.0, 0))
    tried.append(([ones, drift_shape(1.0, 0, samples), kick], 1.0, 0))
    return tried


def _explained(steps: Mapping[str, MeasuredStep], channels: Mapping[str, Channel]) -> float:
    """1 - NRMSE over all channels, each weighted by what its step does to the clock."""
    error = power = 0.0
    for name, step in steps.items():
        weight = step.counts * step.size**2
        modelled = channels[name].step(len(step.mean_mhz))
        error += float(np.sum(weight * (step.mean_mhz - modelled) ** 2))
        power += float(np.sum(weight * step.mean_mhz**2))
    return 1.0 - math.sqrt(error / power) if power else 1.0


def _free(
    base: FloatArray, moved: FloatArray, levels_mhz: tuple[float, ...]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Samples before either twin ran into a limit, unless the controller lives at its limits."""
    ends = (levels_mhz[0], levels_mhz[-1])
    if len(levels_mhz) <= _FEW_LEVELS or np.isin(base, ends).all():
        return np.ones(len(base), dtype=bool)
    hit = np.isin(base, ends) | np.isin(moved, ends)
    free: np.ndarray[tuple[int], np.dtype[np.bool_]] = np.cumsum(hit) == 0
    return free


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Noise:
    """What one pair of twins sees: an offset that stays, and noise from sample to sample."""

    offset: float
    latency: FloatArray

    @classmethod
    def draw(cls, probe: Probe, replicate: int) -> _Noise:
        rng = np.random.default_rng((probe.seed, replicate))
        length = _WARM_UP + probe.samples
        return cls(
            offset=probe.batch_deviation * float(np.clip(rng.standard_normal(), -2.0, 2.0)),
            latency=np.exp(probe.latency_noise * rng.standard_normal(length)),
        )


@dataclass(slots=True, kw_only=True)
class _Twin:
    """A controller beside an instance that stays at its operating point, whatever is asked for."""

    instance: RecordedInstance
    plant: PlantModel
    point: OperatingPoint
    levels_mhz: tuple[float, ...]
    now_s: float
    last_s: float
    target_mhz: float

    @classmethod
    def of(cls, instance: RecordedInstance, plant: PlantModel, point: OperatingPoint) -> _Twin:
        last = instance.last
        # The policy alone is copied: plant and bench are shared, and change nothing but caches.
        memo: dict[int, object] = {id(instance.context): instance.context}
        if instance.context.bench is not None:
            memo[id(instance.context.bench)] = instance.context.bench
        policy = copy.deepcopy(instance.policy, memo)
        return cls(
            instance=dataclasses.replace(instance, policy=policy),
            plant=plant,
            point=point,
            levels_mhz=instance.policy.levels_mhz,
            now_s=last.now_s + point.latency_s,
            last_s=point.latency_s,
            target_mhz=last.target_mhz if last.target_mhz > 0 else point.clock_mhz,
        )

    def __deepcopy__(self, memo: dict[int, object]) -> _Twin:
        policy = copy.deepcopy(self.instance.policy, memo)
        return dataclasses.replace(self, instance=dataclasses.replace(self.instance, policy=policy))

    def warm_up(self, noise: _Noise) -> None:
        """Come to the clock of the operating point, then get used to the offset of the batch.

        A run may end while an integrating law is at a limit. It is led back by showing it a latency
        that is too high or too low; nothing learns from that.
        """
        for _ in range(_APPROACH):
            missing = self.point.clock_mhz - self.target_mhz
            if abs(missing) <= _NEAR * self.point.clock_mhz:
                break
            self.last_s = self.point.latency_s * (1.0 + math.copysign(_LEAD, missing))
            self._decide(Load.decode(round(self.point.batch), round(self.point.kv_tokens)))
        self.last_s = self.point.latency_s
        for sample in range(_WARM_UP):
            self._answer(noise, sample, {})

    def answers(self, noise: _Noise, step: Mapping[str, float]) -> FloatArray:
        """Clocks that it asks for with a step in what it sees, shape (samples,)."""
        self.last_s += step.get(LATENCY, 0.0)
        return np.array([self._answer(noise, k, step) for k in range(_WARM_UP, len(noise.latency))])

    def _answer(self, noise: _Noise, sample: int, step: Mapping[str, float]) -> float:
        point, policy = self.point, self.instance.policy
        context = point.kv_tokens / point.batch
        requests = max(1.0, point.batch + noise.offset)
        load = Load.decode(
            max(1, round(requests + step.get(BATCH, 0.0))),
            max(1, round(requests * context + step.get(KV_TOKENS, 0.0))),
        )
        decision = self._decide(load)
        truth_s = self.plant.latency_s(load, point.clock_mhz)
        # The offset of the batch is no error of a set point: a latency controller sees the mean.
        self.last_s = point.latency_s * noise.latency[sample] + step.get(LATENCY, 0.0)
        if policy.predictor is not None:
            policy.predictor.learn(
                Outcome(
                    load=load,
                    clock_mhz=point.clock_mhz,
                    latency_s=truth_s * noise.latency[sample] + step.get(LATENCY, 0.0),
                    ended_at_s=self.now_s,
                    decision=decision,
                )
            )
        return self.target_mhz

    def _decide(self, load: Load) -> Decision:
        point = self.point
        decision = self.instance.policy.controller.decide(
            dataclasses.replace(
                self.instance.last,
                sampled_at_s=self.now_s,
                now_s=self.now_s,
                load=load,
                clock_mhz=point.clock_mhz,
                target_mhz=self.target_mhz,
                last_latency_s=self.last_s,
            )
        )
        self.target_mhz = resolve(decision.clock_mhz, self.levels_mhz, UNBOUNDED)
        self.now_s += point.latency_s
        return decision
