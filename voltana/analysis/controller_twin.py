"""A copy of a controller that is shown what it would see at an operating point, and answers.

Nothing is assumed of the controller's code. Its twin, as a run left it, stands beside an instance
that stays at its operating point whatever is asked for, and sees noisy observations of it. The twin
learns as well where the policy does, so what a wrong forecast does to the clock through the
predictor is part of the answer to latency.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.analysis.decode_model import BATCH, KV_TOKENS, LATENCY
from voltana.levels import resolve
from voltana.values import UNBOUNDED, Load, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.analysis.operating_point import OperatingPoint
    from voltana.analysis.recording import RecordedInstance
    from voltana.plant.iteration import PlantModel
    from voltana.values import Decision, FloatArray

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
class Noise:
    """What one pair of twins sees.

    Attributes:
        offset: Of the batch, requests; it stays.
        latency: Factor on each latency shown, warm-up first, shape (samples,).
    """

    offset: float
    latency: FloatArray

    @classmethod
    def draw(cls, probe: Probe, replicate: int) -> Noise:
        """What the pair with this number sees: the same for the same probe."""
        rng = np.random.default_rng((probe.seed, replicate))
        length = _WARM_UP + probe.samples
        return cls(
            offset=probe.batch_deviation * float(np.clip(rng.standard_normal(), -2.0, 2.0)),
            latency=np.exp(probe.latency_noise * rng.standard_normal(length)),
        )


@dataclass(slots=True, kw_only=True)
class Twin:
    """A controller beside an instance that stays at its operating point, whatever is asked for.

    Attributes:
        instance: Recorded, with a policy that is the twin's own.
        plant: Latency of the iterations that it learns from.
        point: Where the instance stays.
        levels_mhz: What its decisions are rounded to.
        now_s: Time of its next decision.
        last_s: Latency that it is shown then.
        target_mhz: What it asked for last.
    """

    instance: RecordedInstance
    plant: PlantModel
    point: OperatingPoint
    levels_mhz: tuple[float, ...]
    now_s: float
    last_s: float
    target_mhz: float

    @classmethod
    def of(cls, instance: RecordedInstance, plant: PlantModel, point: OperatingPoint) -> Twin:
        """A twin of the controller of a recorded instance, which is left as it is."""
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

    def __deepcopy__(self, memo: dict[int, object]) -> Twin:
        policy = copy.deepcopy(self.instance.policy, memo)
        return dataclasses.replace(self, instance=dataclasses.replace(self.instance, policy=policy))

    def warm_up(self, noise: Noise) -> None:
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

    def answers(self, noise: Noise, step: Mapping[str, float]) -> FloatArray:
        """Clocks that it asks for with a step in what it sees, shape (samples,)."""
        self.last_s += step.get(LATENCY, 0.0)
        return np.array([self._answer(noise, k, step) for k in range(_WARM_UP, len(noise.latency))])

    def _answer(self, noise: Noise, sample: int, step: Mapping[str, float]) -> float:
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
