"""What each part of the default policy contributes: every one is switched off or replaced in turn.

Llama-3.1-8B on A100, two prefill and two decode instances. Run as
``python -m benchmarks.ablation``; every row but the first differs from `voltana` in one part.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.sweep import COLUMNS, PERCENT_HEADER, cells, swept
from voltana.controllers.ecofreq import EcoFreq
from voltana.controllers.energy_optimal import EnergyOptimal
from voltana.controllers.fixed import FixedClock
from voltana.controllers.held_level import HeldLevel
from voltana.controllers.memory import Memory
from voltana.controllers.optimal_available import OptimalAvailable
from voltana.controllers.supervisor import Supervised
from voltana.policies.default import clock_levels, kv_memory, voltana
from voltana.policies.named import get_policy
from voltana.policies.published import Profiled
from voltana.policy import InstancePolicy
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.routers.random import RandomRouter
from voltana.routers.round_robin import RoundRobin
from voltana.values import Decision, Observation, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.policy import InstanceContext, Policy
    from voltana.ports import Controller, PowerPredictor, Predictor

    Build = Callable[[InstanceContext, Predictor, PowerPredictor, tuple[float, ...]], Controller]

DEFAULT_RATES_RPS = (30.0, 50.0, 70.0, 80.0, 100.0)
LEVEL_COUNTS = (2, 5, 28, 81)
WINDOW_S = 5.0


class EveryWindow:
    """A controller asked once in a window; its clock is kept in between, and promises nothing."""

    def __init__(self, controller: Controller, window_s: float) -> None:
        self._controller = controller
        self._window_s = window_s
        self._due_s = -math.inf
        self._clock_mhz = math.nan

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        if observation.now_s < self._due_s:
            return Decision(clock_mhz=self._clock_mhz, reason="as in this window")
        decision = self._controller.decide(observation)
        self._due_s = observation.now_s + self._window_s
        self._clock_mhz = decision.clock_mhz
        return decision


def rebuilt(build: Build, *, role: Role | None = None, levels: int | None = None) -> Policy:
    """`voltana` with another controller on the instances of a role, or with other levels."""

    def control(context: InstanceContext) -> InstancePolicy:
        ours = voltana(context)
        if role is not None and context.role is not role:
            return ours
        assert ours.predictor is not None
        assert ours.power is not None
        clocks = ours.levels_mhz if levels is None else clock_levels(context, levels)
        controller = build(context, ours.predictor, ours.power, clocks)
        supervised = Supervised(controller, fallback=FixedClock.max(context.table_mhz))
        return dataclasses.replace(ours, controller=supervised, levels_mhz=clocks)

    return dataclasses.replace(get_policy("voltana"), control=control)


def _decode_law(
    context: InstanceContext,
    predictor: Predictor,
    power: PowerPredictor,
    levels: tuple[float, ...],
    **options: object,
) -> EnergyOptimal:
    """Decode as `voltana` controls it, but for `options`."""
    chosen = {"memory": kv_memory(context), "max_power_w": context.max_power_w, **options}
    return EnergyOptimal(predictor, power, levels, context.slo, **chosen)  # type: ignore[arg-type]


def _ours(
    context: InstanceContext,
    predictor: Predictor,
    power: PowerPredictor,
    levels: tuple[float, ...],
) -> Controller:
    if context.role is Role.DECODE:
        return _decode_law(context, predictor, power, levels)
    return OptimalAvailable(predictor, power, levels, context.slo)


def _decode(**options: object) -> Policy:
    def build(
        context: InstanceContext,
        predictor: Predictor,
        power: PowerPredictor,
        levels: tuple[float, ...],
    ) -> Controller:
        return _decode_law(context, predictor, power, levels, **options)

    return rebuilt(build, role=Role.DECODE)


def _followed(
    context: InstanceContext,
    predictor: Predictor,
    power: PowerPredictor,
    levels: tuple[float, ...],
) -> Controller:
    """Changes of the decode clock cost nothing."""
    controller = _decode_law(context, predictor, power, levels)
    controller.held = HeldLevel(0.0)
    return controller


def _ecofreq(role: Role) -> Policy:
    return rebuilt(lambda c, p, _w, levels: EcoFreq(p, levels, c.slo), role=role)


def _unlearned() -> Policy:
    """Tables profiled beforehand in place of the predictor, and the datasheet's power."""
    profiled = Profiled()

    def control(context: InstanceContext) -> InstancePolicy:
        levels = clock_levels(context)
        tables = profiled.tables(context, levels)
        power = LinearPower(max_clock_mhz=context.table_mhz[-1], max_power_w=context.max_power_w)
        controller = _ours(context, tables, power, levels)  # type: ignore[arg-type]
        return InstancePolicy(controller=controller, levels_mhz=levels)

    return dataclasses.replace(get_policy("voltana"), control=control)


def _uncertified() -> Policy:
    """A bound of three standard deviations in place of the tracked margin."""

    def control(context: InstanceContext) -> InstancePolicy:
        predictor = EcoPred.from_datasheet(context.datasheet, bound_deviations=3.0)
        ours = voltana(context)
        assert ours.power is not None
        controller = _ours(context, predictor, ours.power, ours.levels_mhz)
        return dataclasses.replace(ours, controller=controller, predictor=predictor)

    return dataclasses.replace(get_policy("voltana"), control=control)


def variants() -> Mapping[str, Policy]:
    """The policies compared, by what is different in them."""
    ours = get_policy("voltana")
    by_levels = {
        f"{count} levels": rebuilt(_ours, levels=count) for count in LEVEL_COUNTS if count != 28
    }
    return {
        "voltana": ours,
        "prefill: lowest safe clock, fastest if prompts wait": _ecofreq(Role.PREFILL),
        "decode: lowest safe clock": _ecofreq(Role.DECODE),
        "decode: no floor from the memory": _decode(memory=Memory()),
        "decode: every wish followed": rebuilt(_followed, role=Role.DECODE),
        "prefill: no arrivals expected": rebuilt(
            lambda c, p, w, levels: OptimalAvailable(p, w, levels, c.slo, arrivals_s=0.0),
            role=Role.PREFILL,
        ),
        "margin: three deviations, no guarantee": _uncertified(),
        "predictors: profiled tables, nothing learned": _unlearned(),
        "prefill routing: at random": dataclasses.replace(ours, prefill_router=RandomRouter),
        "decode routing: nothing gathered": dataclasses.replace(
            ours, decode_router=get_policy("static-max-routed").decode_router
        ),
        "decode routing: in turn": dataclasses.replace(
            ours, decode_router=lambda _seed: RoundRobin()
        ),
        f"one decision every {WINDOW_S:g} s": rebuilt(
            lambda c, p, w, levels: EveryWindow(_ours(c, p, w, levels), WINDOW_S)
        ),
        **by_levels,
    }


def variant(name: str) -> Policy:
    """The policy of a name of `variants`, for the workers of a sweep."""
    return variants()[name]


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="sharegpt")
    parser.add_argument("--rates", type=float, nargs="+", default=DEFAULT_RATES_RPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of arrivals")
    parser.add_argument("--out", type=Path, default=Path("out/ablation"))
    given = parser.parse_args()
    rows = [
        {"workload": given.workload, "rate": rate_rps, "duration": given.duration, "seed": seed}
        for rate_rps in given.rates
        for seed in given.seeds
    ]
    figures = swept(given.out, "benchmarks.ablation:variant", list(variants()), rows)
    print(f"| requests/s | variant | {PERCENT_HEADER} |")
    print("|---:|---|" + "---:|" * len(COLUMNS))
    for (_, rate_rps, name), row in figures.items():
        print(f"| {rate_rps:g} | {name} | {cells(row)} |")


if __name__ == "__main__":
    main()
