"""What hindsight could save: clocks and routing searched for one trace, which no policy can know.

The bound (docs/bound.md) says what no schedule can beat, and not whether any comes near it. This
looks for one that does: the default policy without its floor for the KV cache, under a schedule of
lowest decode clocks and of steps by which prefill clocks differ from the policy's own, one for each
ten seconds, and with the best of several ways to route decode, chosen by simulating this very trace
again and again. Attainment may be a point below that of static-max, as the bound assumes.

Run as ``python -m benchmarks.hindsight``: a few minutes for each rate. The search is a cyclic
coordinate descent with halving steps (Hooke and Jeeves, "Direct search", Journal of the ACM 8,
1961), so what it finds is a schedule, not the best one.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import sys
from bisect import bisect_left
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import structlog

from benchmarks.paired import ALLOWANCE, ATTAINMENTS
from voltana.evaluation.bound import bound_comparison
from voltana.evaluation.compare import REFERENCE, compare
from voltana.evaluation.metrics import measure
from voltana.evaluation.scenario import load_scenario
from voltana.plant.simulation import Simulation
from voltana.policies import routing
from voltana.policies.default import LEVELS, voltana
from voltana.policies.named import get_policy
from voltana.values import EMPTY_QUEUE, Decision, Observation, Role

if TYPE_CHECKING:
    from voltana.evaluation.metrics import Result
    from voltana.evaluation.scenario import Scenario
    from voltana.policy import InstanceContext, InstancePolicy, Policy
    from voltana.ports import Controller

CASES = (("sharegpt", 30.0), ("sharegpt", 70.0), ("lmsys", 75.0), ("lmsys", 85.0))
POLICY, FOUND = "voltana", "hindsight"
BIN_S = 10.0

REST_S = 60.0
"""From the last arrival to the end that energy is compared at while searching."""

FIRST_STEP = 6
"""In levels; halved when no bin is better for it."""

ROUTING = (
    routing.within_boundaries,
    routing.least_power,
    routing.around_boundaries,
    routing.in_turn,
)
"""Ways to route decode: the policy's, without waiting, without sleeping, and as published."""

PREFILL_STEPS = 8
"""Levels by which a prefill clock may differ from the policy's own."""


class Schedule(NamedTuple):
    """What hindsight decides.

    Attributes:
        decode: Index of the lowest decode level in each bin.
        prefill: Levels by which prefill is faster than the policy wants in each bin.
        route: Index of the way to route.
    """

    decode: tuple[int, ...]
    prefill: tuple[int, ...]
    route: int = 0

    def moved(self, part: int, step: int) -> Schedule:
        """The schedule with one of its bins moved; those of prefill follow those of decode."""
        bins = len(self.decode)
        clocks = [*self.decode, *self.prefill]
        low, high = (0, LEVELS - 1) if part < bins else (-PREFILL_STEPS, PREFILL_STEPS)
        clocks[part] = min(max(clocks[part] + step, low), high)
        return Schedule(tuple(clocks[:bins]), tuple(clocks[bins:]), self.route)


class Stepped:
    """Clocks of `controller`, so many levels faster or slower as a schedule says for the time."""

    def __init__(
        self, controller: Controller, levels_mhz: tuple[float, ...], steps: tuple[int, ...]
    ) -> None:
        self.controller = controller
        self._levels_mhz = levels_mhz
        self._steps = steps

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        decision = self.controller.decide(observation)
        if not observation.load.prefill_tokens:
            return decision
        step = self._steps[min(int(observation.now_s / BIN_S), len(self._steps) - 1)]
        wanted = bisect_left(self._levels_mhz, decision.clock_mhz - 1e-6)
        index = min(max(wanted + step, 0), len(self._levels_mhz) - 1)
        return dataclasses.replace(decision, clock_mhz=self._levels_mhz[index])


class Scheduled:
    """Clocks of `controller`, raised to what a schedule says for the time."""

    def __init__(
        self, controller: Controller, levels_mhz: tuple[float, ...], floors: tuple[int, ...]
    ) -> None:
        self.controller = controller
        self._floors_mhz = [levels_mhz[index] for index in floors]

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        # What waits for room in the KV cache is the schedule's business.
        decision = self.controller.decide(dataclasses.replace(observation, queue=EMPTY_QUEUE))
        if not observation.load.decode_requests:
            return decision
        part = min(int(observation.now_s / BIN_S), len(self._floors_mhz) - 1)
        return dataclasses.replace(
            decision, clock_mhz=max(decision.clock_mhz, self._floors_mhz[part])
        )


class Score(NamedTuple):
    """How good a schedule is; the larger the better.

    Attributes:
        kept: Minus what attainment falls short by beyond what it may; 0 is best.
        saved: Share of the reference's energy.
    """

    kept: float
    saved: float


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", help="one of its own, with --rate")
    parser.add_argument("--rate", type=float, help="requests/s")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--evaluations", type=int, default=150, help="simulations for each rate")
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of arrivals")
    parser.add_argument("--jobs", type=int, default=2, help="rates at a time")
    given = parser.parse_args()
    if (given.workload is None) != (given.rate is None):
        parser.error("--workload and --rate go together")
    cases = CASES if given.rate is None else ((given.workload, given.rate),)
    print(
        "| workload | requests/s | bound saves % | found with hindsight % | policy saves % | "
        "share of what was found % | TTFT kept % | ITL kept % | of tokens % |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with ProcessPoolExecutor(given.jobs) as pool:
        made = [
            pool.submit(row, *case, given.seed, given.evaluations, given.duration) for case in cases
        ]
        for done in made:
            print(done.result(), flush=True)


def row(
    workload: str, rate_rps: float, seed: int, evaluations: int, duration_s: float = 120.0
) -> str:
    """A row of the table."""
    # A schedule that lets requests miss teaches the margins much, which is logged.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    table = {"name": workload, "rate_rps": rate_rps, "duration_s": duration_s}
    scenario = load_scenario(None, {"policies": [POLICY], "seed": seed, "workload": table})
    found = under(Search(scenario, evaluations).best())
    policies = {**scenario.policies, FOUND: found}
    made = compare(dataclasses.replace(scenario, policies=policies))
    report = bound_comparison(made)
    policy, best = (run.result for run in made.runs)
    ours, theirs = policy.energy_saved_vs_static_max, best.energy_saved_vs_static_max
    numbers = (report.saving, theirs, ours, ours / theirs, *_attainments(best))
    cells = ["-" if math.isnan(number) else f"{100 * number:.2f}" for number in numbers]
    return f"| {workload} | {rate_rps:g} | " + " | ".join(cells) + " |"


def under(schedule: Schedule) -> Policy:
    """The default policy with a schedule instead of its floor for the KV cache."""

    def control(context: InstanceContext) -> InstancePolicy:
        made = voltana(dataclasses.replace(context, kv_capacity_tokens=math.inf))
        controller: Controller
        if context.role is Role.DECODE:
            controller = Scheduled(made.controller, made.levels_mhz, schedule.decode)
        else:
            controller = Stepped(made.controller, made.levels_mhz, schedule.prefill)
        return dataclasses.replace(made, controller=controller)

    return dataclasses.replace(
        get_policy(POLICY), name=FOUND, control=control, decode_router=ROUTING[schedule.route]
    )


def _attainments(result: Result) -> tuple[float, ...]:
    return tuple(getattr(result, name) for name in ATTAINMENTS)


class Search:
    """Looks for a schedule for one trace.

    Args:
        scenario: The trace and the cluster.
        evaluations: Simulations that it may run.
    """

    def __init__(self, scenario: Scenario, evaluations: int) -> None:
        self._scenario = scenario
        self._left = evaluations
        last_s = float(scenario.trace.arrival_s[-1])
        self._end_s = last_s + REST_S
        self._reference = self._run(get_policy(REFERENCE), reference_j=math.inf)
        self._known: dict[Schedule, Score] = {}
        self._bins = math.ceil(last_s / BIN_S) + 1

    def best(self) -> Schedule:
        """The best that was found."""
        own = (0,) * self._bins
        flat = [Schedule((index,) * self._bins, own) for index in range(0, LEVELS, 3)]
        best = self._rerouted(max(flat, key=self._score))
        step = FIRST_STEP
        while step and self._left > 0:
            better = self._sweep(best, step)
            step = step // 2 if better == best else step
            best = better
            self._tell(best, step)
        return self._rerouted(best)

    def _rerouted(self, best: Schedule) -> Schedule:
        """The same clocks under the best way to route."""
        return max((best._replace(route=way) for way in range(len(ROUTING))), key=self._score)

    def _sweep(self, best: Schedule, step: int) -> Schedule:
        for part in range(2 * self._bins):
            for move in (-step, step):
                if self._left <= 0:
                    return best
                other = best.moved(part, move)
                if self._score(other) > self._score(best):
                    best = other
                    break
        return best

    def _tell(self, best: Schedule, step: int) -> None:
        workload = self._scenario.file.workload
        print(
            f"{workload.name} {workload.rate_rps:g}: {self._left} simulations left, step {step}, "
            f"{100 * self._score(best).saved:.2f} % saved",
            file=sys.stderr,
        )

    def _score(self, schedule: Schedule) -> Score:
        if schedule not in self._known:
            self._left -= 1
            result = self._run(under(schedule), reference_j=self._reference.energy_j)
            short = sum(
                max(0.0, wanted - ALLOWANCE - reached)
                for wanted, reached in zip(
                    _attainments(self._reference), _attainments(result), strict=True
                )
            )
            self._known[schedule] = Score(kept=-short, saved=result.energy_saved_vs_static_max)
        return self._known[schedule]

    def _run(self, policy: Policy, *, reference_j: float) -> Result:
        scenario = self._scenario
        simulation = Simulation(
            scenario.cluster,
            policy,
            scenario.trace,
            seed=scenario.file.seed,
            plant=scenario.plant,
        )
        simulation.run(until_s=self._end_s)
        simulation.extend_to(self._end_s)
        return measure(
            policy.name,
            simulation.record(),
            scenario.cluster.slo,
            reference_energy_j=reference_j,
            wall_s=0.0,
        )


if __name__ == "__main__":
    main()
