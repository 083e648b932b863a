"""A search for the best schedule of one trace, by simulating that very trace again and again.

It is a cyclic coordinate descent with halving steps (Hooke and Jeeves, "Direct search", Journal of
the ACM 8, 1961), so what it finds is a schedule, not the best one. Every score is written down at
once: a search that was killed goes on where it was.
"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.hindsight.schedule import BIN_S, ROUTING, Base, Schedule, under
from benchmarks.paired import ALLOWANCE, ATTAINMENTS
from voltana.evaluation.compare import REFERENCE
from voltana.evaluation.metrics import measure
from voltana.plant.simulation import Simulation
from voltana.policies.default import LEVELS
from voltana.policies.named import get_policy

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.evaluation.metrics import Result
    from voltana.evaluation.scenario import Scenario
    from voltana.policy import Policy

REST_S = 60.0
"""From the last arrival to the end that energy is compared at while searching."""

FIRST_STEP = 4
"""In levels; halved when no bin is better for it."""


class Score(NamedTuple):
    """How good a schedule is; the larger the better.

    Attributes:
        kept: Minus what attainment falls short by beyond what it may; 0 is best.
        saved: Share of the reference's energy.
    """

    kept: float
    saved: float


class Known:
    """Scores by schedule, in memory and in a file of one line each.

    Args:
        file: Is made, or read and added to. A line that a kill cut off is left out.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._scores: dict[Schedule, Score] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text().splitlines() if file.exists() else []
        for line in lines:
            try:
                base, decode, prefill, route, *score = json.loads(line)
            except ValueError:
                continue
            schedule = Schedule(Base(base), tuple(decode), tuple(prefill), route)
            self._scores[schedule] = Score(*score)
        if lines:
            print(f"{file.stem}: goes on after {len(self._scores)} simulations", file=sys.stderr)

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, schedule: Schedule) -> Score | None:
        """The score of a schedule; None if it was not simulated."""
        return self._scores.get(schedule)

    def note(self, schedule: Schedule, score: Score) -> None:
        """Keep a score."""
        self._scores[schedule] = score
        with self._file.open("a") as file:
            file.write(json.dumps([*schedule, *score]) + "\n")


class Search:
    """Looks for a schedule for one trace.

    Args:
        scenario: The trace and the cluster.
        evaluations: Simulations that it may run, those that are known included.
        known: What was simulated before, under the same allowance.
        allowance: By how much less than static-max a schedule may keep of each attainment.
    """

    def __init__(
        self,
        scenario: Scenario,
        evaluations: int,
        known: Known,
        allowance: float = ALLOWANCE,
    ) -> None:
        self._scenario = scenario
        self._evaluations = evaluations
        self._known = known
        self._allowance = allowance
        self._asked: set[Schedule] = set()
        last_s = float(scenario.trace.arrival_s[-1])
        self._end_s = last_s + REST_S
        self._reference = self._run(get_policy(REFERENCE), reference_j=math.inf)
        self._bins = math.ceil(last_s / BIN_S) + 1

    def best(self) -> Schedule:
        """The best that was found: never worse than the policy itself, which is looked at first."""
        best = self._rerouted(max(self._starts(), key=self._score))
        step = FIRST_STEP
        while step and self._left > 0:
            better = self._sweep(best, step)
            step = step // 2 if better == best else step
            best = better
            self._tell(best, step)
        return self._rerouted(best)

    @property
    def _left(self) -> int:
        return self._evaluations - len(self._asked)

    def _starts(self) -> list[Schedule]:
        """The same clock, or distance from the policy's own, in all bins."""
        none = (0,) * self._bins
        return [
            *(Schedule(Base.OWN, (step,) * self._bins, none) for step in (0, -2, 2, -4, 4)),
            *(Schedule(Base.LOWEST, (i,) * self._bins, none) for i in range(0, LEVELS, 3)),
        ]

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
        print(
            f"{self._scenario.cluster.model.name}: {self._left} simulations left, step {step}, "
            f"{100 * self._score(best).saved:.2f} % saved",
            file=sys.stderr,
        )

    def _score(self, schedule: Schedule) -> Score:
        self._asked.add(schedule)
        score = self._known.get(schedule)
        if score is None:
            result = self._run(under(schedule), reference_j=self._reference.energy_j)
            short = sum(
                max(0.0, getattr(self._reference, name) - self._allowance - getattr(result, name))
                for name in ATTAINMENTS
            )
            score = Score(kept=-short, saved=result.energy_saved_vs_static_max)
            self._known.note(schedule, score)
        return score

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
