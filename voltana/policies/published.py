"""The released behaviour of the published system (VoltanaLLM v0.1), and fixed baselines.

All of them use the published routing: prefill at random; decode in turn, or as each policy says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.controllers.ecofreq_v01 import EcoFreqV01
from voltana.controllers.fixed import FixedClock
from voltana.controllers.pid import Pid
from voltana.controllers.window import WindowGovernor
from voltana.errors import ConfigError
from voltana.levels import Published
from voltana.policy import InstancePolicy
from voltana.predictors.tables import profile_tables
from voltana.values import Role

if TYPE_CHECKING:
    from voltana.policy import Bench, InstanceContext
    from voltana.predictors.tables import TablePredictor

DEMO_SLO_MARGIN = 0.35
"""Margin of the published demo; it loosens the thresholds."""


V01 = "voltana-v0.1"
"""What the names of the released system begin with."""


def refuses_colocated(name: str) -> ConfigError:
    """Why the released system serves no colocated instances, and what does."""
    return ConfigError(
        f"policy = {name!r} is not allowed with colocated instances: the published system sets "
        "the clocks of separate prefill and decode instances by the phase that each serves, and "
        "knows none that serves both. Take voltana, best-fixed, window or a fixed clock, or "
        "leave --colocated out."
    )


class Profiled:
    """Tables of the machine that was profiled last, so that alike instances share one profile.

    Profiling takes hours on a real machine, and thousands of measurements on a simulated one.
    """

    def __init__(self) -> None:
        self._bench: Bench | None = None
        self._tables: dict[tuple[Role, tuple[float, ...]], TablePredictor] = {}

    def tables(self, context: InstanceContext, levels_mhz: tuple[float, ...]) -> TablePredictor:
        """Tables for an instance, profiled on its bench unless an alike one was before.

        Raises:
            ConfigError: If there is no bench.
        """
        if context.bench is None:
            raise ConfigError(
                f"{context.instance}: bench = None is not allowed: this policy looks up profiled "
                "tables. Run it in 'voltana simulate', name a file of tables by policy.profile, or "
                "take one that learns online."
            )
        if context.bench is not self._bench:
            self._bench, self._tables = context.bench, {}
        key = (context.role, levels_mhz)
        if key not in self._tables:
            self._tables[key] = profile_tables(
                context.bench,
                context.role,
                levels_mhz,
                max_batch_tokens=context.max_batch_tokens,
                max_batch=min(context.max_running_requests, 1024),
            )
        return self._tables[key]


def static_max(context: InstanceContext) -> InstancePolicy:
    """Every instance at its fastest clock."""
    return fixed(context.table_mhz[-1])


def static_low(context: InstanceContext) -> InstancePolicy:
    """Every instance at the lower published level: 1005 MHz on an A100."""
    return fixed(Published().levels(context.table_mhz)[0])


def window(context: InstanceContext, profiled: Profiled) -> InstancePolicy:
    """A clock of the published levels for each window of five seconds."""
    levels = _levels(context)
    model = context.predictor or profiled.tables(context, levels)
    return InstancePolicy(
        controller=WindowGovernor(model, levels, context.slo),
        levels_mhz=levels,
        predictor=context.predictor,
    )


def pid(context: InstanceContext) -> InstancePolicy:
    """PID on the measured latency, over every clock from the lower published level up."""
    lowest_mhz = Published().levels(context.table_mhz)[0]
    levels = context.levels_mhz or tuple(mhz for mhz in context.table_mhz if mhz >= lowest_mhz)
    return InstancePolicy(controller=Pid(levels, context.slo), levels_mhz=levels)


def voltana_v01(
    context: InstanceContext, profiled: Profiled, slo_margin: float = 0.0
) -> InstancePolicy:
    """The released frequency manager; the loop teaches its tables nothing.

    Raises:
        ConfigError: For a colocated instance.
    """
    if context.role is Role.COLOCATED:
        raise refuses_colocated(V01)
    levels = _levels(context)
    model = context.predictor or profiled.tables(context, levels)
    controller = EcoFreqV01(model, levels, context.slo, slo_margin=slo_margin)
    return InstancePolicy(controller=controller, levels_mhz=levels, predictor=context.predictor)


def _levels(context: InstanceContext) -> tuple[float, ...]:
    return context.levels_mhz or Published().levels(context.table_mhz)


def fixed(clock_mhz: float) -> InstancePolicy:
    """One clock, whatever is served."""
    return InstancePolicy(controller=FixedClock(clock_mhz), levels_mhz=(clock_mhz,))
