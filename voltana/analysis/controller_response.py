"""Identifies any controller as a linear system, by what it answers to steps.

Nothing is assumed of its code: a twin of the controller, as a run left it, sees the same noisy
observations as the original, but for a step in one of them. The mean difference between what the
two ask for is the step response. Averaged over noise of the size that was recorded, a law that only
knows a few levels has a slope as well: its describing function for such inputs (Gelb, Vander Velde,
"Multiple-Input Describing Functions and Nonlinear System Design", McGraw-Hill 1968, chapter 7). The
noise acts as dither, so the slope holds for deviations of about its size and larger, not for
smaller ones, which no level answers.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.analysis.channel_fit import MeasuredStep, fit_channel
from voltana.analysis.controller_model import Channel, ControllerModel
from voltana.analysis.controller_twin import Noise, Probe, Twin
from voltana.analysis.decode_model import BATCH, KV_TOKENS, LATENCY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.analysis.operating_point import OperatingPoint
    from voltana.analysis.recording import RecordedInstance
    from voltana.plant.iteration import PlantModel
    from voltana.values import FloatArray

_FEW_LEVELS = 3
"""With so few levels most of them are limits, and a limit is where the law works."""


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
        noise = Noise.draw(probe, replicate)
        twin = Twin.of(instance, plant, point)
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
    if _held(chosen, Twin.of(instance, plant, point).levels_mhz):
        channels = {name: Channel() for name in sizes}
    else:
        channels = {name: fit_channel(step) for name, step in measured.items()}
    return ControllerResponse(
        model=ControllerModel(channels=channels),
        steps=measured,
        fit=_explained(measured, channels),
        levels_mhz=tuple(sorted(chosen)),
    )


def _held(chosen: set[float], levels_mhz: tuple[float, ...]) -> bool:
    """Whether the law never left one end of its range: what steps bring out there is no feedback.

    A step may push the clock off its limit for a moment, but no deviation of the size met does.
    """
    return len(levels_mhz) == 1 or chosen in ({levels_mhz[0]}, {levels_mhz[-1]})


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
