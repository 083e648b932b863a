"""How often instances change their clock, and how often they take a change back.

Run as ``python -m benchmarks.changes``: by default the mixture of experts on two pairs of H100 on
which decode once swung between its slowest and its fastest clock. A change is taken back if the
clock that was asked for is within 5 s again at what it was before, or beyond.
"""

from __future__ import annotations

import argparse
import dataclasses
from bisect import bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING

from benchmarks.cells import Cell, scenario_of
from voltana.controllers.wrapper import ControllerWrapper
from voltana.plant.simulation import Simulation
from voltana.policies.named import get_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.policy import InstanceContext, InstancePolicy, Policy
    from voltana.ports import Controller
    from voltana.values import Decision, Observation

WITHIN_S = 5.0
"""Within so long a change counts as taken back."""

Asked = list[tuple[float, float]]
"""When a clock was asked for, and which, in MHz; only where it differs from the one before."""


class Noting(ControllerWrapper):
    """Notes the clocks that are asked for.

    Args:
        controller: Asks for them.
        asked: Where they are noted.
    """

    def __init__(self, controller: Controller, asked: Asked) -> None:
        super().__init__(controller)
        self._asked = asked

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        decision = self.controller.decide(observation)
        if not self._asked or self._asked[-1][1] != decision.clock_mhz:
            self._asked.append((observation.now_s, decision.clock_mhz))
        return decision


def noting(policy: Policy, asked: dict[str, Asked]) -> Policy:
    """The policy, with what every instance asks for noted by its name."""

    def control(context: InstanceContext) -> InstancePolicy:
        made = policy.control(context)
        noted = Noting(made.controller, asked[context.instance])
        return dataclasses.replace(made, controller=noted)

    return dataclasses.replace(policy, control=control)


def taken_back(asked: Asked) -> int:
    """Changes after which the clock is back, or beyond, within `WITHIN_S`."""
    times_s = [at_s for at_s, _ in asked]
    count = 0
    for place in range(1, len(asked)):
        at_s, to_mhz = asked[place]
        from_mhz = asked[place - 1][1]
        later = asked[place + 1 : bisect_right(times_s, at_s + WITHIN_S)]
        sign = 1.0 if to_mhz > from_mhz else -1.0
        count += any(sign * (mhz - from_mhz) <= 0.0 for _, mhz in later)
    return count


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for every role and seed as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hardware", default="h100-sxm")
    parser.add_argument("--model", default="qwen3-30b-a3b")
    parser.add_argument("--workload", default="sharegpt")
    parser.add_argument("--rate", type=float, default=40.0, help="requests/s")
    parser.add_argument("--duration", type=float, default=90.0, help="seconds of arrivals")
    parser.add_argument("--policy", default="voltana")
    parser.add_argument("--seeds", type=int, nargs="+", default=(21, 22, 23))
    given = parser.parse_args(arguments)
    cell = Cell(
        model=given.model, workload=given.workload, rate_rps=given.rate, hardware=given.hardware
    )
    print("| seed | role | changes per instance-minute | taken back within 5 s |")
    print("|---:|---|---:|---:|")
    for seed in given.seeds:
        scenario = scenario_of(cell, given.duration, seed=seed)
        asked: dict[str, Asked] = defaultdict(list)
        policy = scenario.configured(noting(get_policy(given.policy), asked))
        simulation = Simulation(
            scenario.cluster, policy, scenario.trace, seed=seed, plant=scenario.plant
        )
        simulation.run()
        for role in ("prefill", "decode"):
            made = [noted for name, noted in asked.items() if name.startswith(role)]
            minutes = len(made) * simulation.now_s / 60.0
            changes = sum(len(noted) - 1 for noted in made) / minutes
            back = sum(map(taken_back, made)) / minutes
            print(f"| {seed} | {role} | {changes:.1f} | {back:.1f} |", flush=True)


if __name__ == "__main__":
    main()
