"""The policy `voltana`: what this library makes of its own parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.controllers.ecofreq import EcoFreq
from voltana.controllers.fixed import FixedClock
from voltana.controllers.supervisor import Supervised
from voltana.levels import EvenlySpaced, Published
from voltana.policy import InstancePolicy
from voltana.predictors.ecopred import EcoPred
from voltana.values import Role

if TYPE_CHECKING:
    from voltana.policy import InstanceContext

LEVELS = 28

DECODE_FLOOR = 0.4
"""Lowest decode clock over the fastest. A decode instance is busy at any clock, so its energy falls
with its power until the SLO stops it; a prefill instance does a fixed amount of work, which takes
more energy below the lower published level."""

BOUND_DEVIATIONS = 2.0
"""Width of the bound that has to fit. The SLO is on the mean gap of a request, over which the noise
of single iterations averages out; what has to fit is the load, not the noise."""

TTFT_SHARE = 0.8
"""What prefill is planned against; the rest is for prompts that wait for a batch to end."""


def voltana(context: InstanceContext) -> InstancePolicy:
    """EcoFreq over 28 levels, on an EcoPred that starts from physics and learns online."""
    predictor = EcoPred.from_datasheet(context.datasheet, bound_deviations=BOUND_DEVIATIONS)
    decode = context.role is Role.DECODE
    fastest_mhz = context.table_mhz[-1]
    floor_mhz = DECODE_FLOOR * fastest_mhz if decode else Published().levels(context.table_mhz)[0]
    levels = EvenlySpaced(LEVELS, min_mhz=floor_mhz).levels(context.table_mhz)
    controller = Supervised(
        EcoFreq(predictor, levels, context.slo, ttft_share=TTFT_SHARE, idle_after_s=0.0),
        fallback=FixedClock.max(context.table_mhz),
    )
    return InstancePolicy(controller=controller, levels_mhz=levels, predictor=predictor)
