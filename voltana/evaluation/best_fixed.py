"""The policy ``best-fixed``: the best pair of fixed clocks for one trace, searched in hindsight.

Of the pairs of a prefill and a decode clock over the default policy's levels, with its routers: the
one of least energy whose attainments are each within a point of what the better of static-max and
of the fastest pair attains on the same trace and seed; the fastest pair if there is none. Routers
alone can win tens of points over static-max (triage beyond saturation, shared gaps of colocated
instances): a pair that gave them away again would serve worse than the same routers do, and what is
asked for is what clocks cost.

Every pair costs a simulation of the trace; `voltana.evaluation.pair_search` chooses which of them
are made, and `voltana.evaluation.pair_race` which of those are given up before their end. Where
arrivals are even and last a minute or longer, the pair is searched for their first 30 s, and near
what was found for all of them: successive halving (K. Jamieson and A. Talwalkar, "Non-stochastic
best arm identification and hyperparameter optimization", AISTATS 2016) in two steps.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.bound.compare import allowance
from voltana.evaluation.metrics import measure
from voltana.evaluation.pair_race import Race, worst
from voltana.evaluation.pair_search import DECODE, PREFILL, Score, approached, refined, search
from voltana.levels import parse_levels
from voltana.plant.simulation import Simulation
from voltana.plant.workload.transform import window
from voltana.policies import get_policy
from voltana.policies.default import levels_of_role
from voltana.policies.fixed import fixed_name
from voltana.slo import Attainment
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.evaluation.metrics import Result
    from voltana.evaluation.pair_search import Pair
    from voltana.evaluation.scenario import Scenario
    from voltana.policy import Policy

    Progress = Callable[[str, float, int], None]

NAME = "best-fixed"
SEARCH = "best-fixed?"
"""What progress calls the search; the run of what it found goes by the policy's name."""

REFERENCE = "static-max"

MOST_RUNS = 39
"""Simulations of a search, the reference's among them; the comparison itself runs the 40th."""

HEAD_S = 30.0
"""Arrivals that are searched first, where a trace lasts at least twice as long."""

HEAD_RUNS, REFINING_RUNS = 26, 11
"""Simulations of them, and of the whole trace after that, both references' among both."""

EVEN = 0.15
"""By how much the rate of any quarter of a trace may differ from its mean for its head to stand for
it."""

PATIENCE = 10.0
"""A run is given up, and keeps too little, where the time from the last arrival to the end is more
than this many times that of static-max."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a search found.

    Attributes:
        policy: The fixed clocks, as a policy that runs.
        prefill_mhz: Clock of the prefill instances.
        decode_mhz: Clock of the decode instances.
        kept: Whether attainments are within a point of the better of static-max and the fastest
            pair; else it is that pair.
        runs: Simulations that it took.
    """

    policy: Policy
    prefill_mhz: float
    decode_mhz: float
    kept: bool
    runs: int

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "policy": self.policy.name,
            "prefill_mhz": self.prefill_mhz,
            "decode_mhz": self.decode_mhz,
            "keeps_enough": self.kept,
            "runs": self.runs,
        }


class BestFixed:
    """Stands for the policy in a scenario until a comparison searches it."""

    def find(self, scenario: Scenario, progress: Progress | None = None) -> Choice:
        """Search the pair for a scenario's trace.

        Args:
            scenario: Its levels, latency model and power budget hold for the search too.
            progress: Called with `SEARCH`, simulated seconds and the searched share of the trace's
                requests.
        """
        head = _head(scenario)
        before = 0
        if head is None:
            runs = PairRuns(scenario, progress)
            best = search(runs)
        else:
            first = PairRuns(head, most=HEAD_RUNS)
            near = approached(first)
            before = first.count
            runs = PairRuns(scenario, progress, most=REFINING_RUNS)
            best = refined(runs, near)
        if progress is not None:
            progress(SEARCH, scenario.trace.arrival_s[-1], len(scenario.trace))
        prefill_mhz, decode_mhz = runs.clocks_mhz(best)
        return Choice(
            policy=runs.policy(best),
            prefill_mhz=prefill_mhz,
            decode_mhz=decode_mhz,
            kept=bool(runs.score(best).short == 0),
            runs=before + runs.count,
        )


class PairRuns:
    """Simulates pairs of clocks, each once.

    Args:
        scenario: What is served.
        progress: As in `BestFixed.find`.
        most: Simulations that may be run; those of the references are the first two.

    Attributes:
        size: Levels of prefill and of decode.
        rises: Whether attainment never falls when a clock rises: under a power budget a faster one
            takes from other instances.
        count: Simulations so far.
    """

    def __init__(
        self, scenario: Scenario, progress: Progress | None = None, *, most: int = MOST_RUNS
    ) -> None:
        self._scenario = scenario
        self._progress = progress
        self._most = most
        alone = not scenario.cluster.prefill  # colocated instances have one clock
        roles = (Role.COLOCATED,) if alone else (Role.PREFILL, Role.DECODE)
        self._levels = tuple(_levels(scenario, role) for role in roles)
        self.size = (len(self._levels[0]), 1 if alone else len(self._levels[1]))
        self.rises = scenario.budget is None
        self.count = 0
        self._scores: dict[Pair, Score] = {}
        self._allowed: Attainment | None = None
        self._end_s = math.inf
        self._race = self._take_reference()

    @property
    def spent(self) -> bool:
        """Whether nothing more may be simulated."""
        return self.count >= self._most

    def clocks_mhz(self, pair: Pair) -> tuple[float, float]:
        """The prefill and the decode clock of a pair."""
        first_mhz = self._levels[0][pair[0]]
        return first_mhz, self._levels[1][pair[1]] if len(self._levels) > 1 else first_mhz

    def policy(self, pair: Pair) -> Policy:
        """The policy of a pair."""
        return get_policy(fixed_name(*self.clocks_mhz(pair)))

    def score(self, pair: Pair) -> Score:
        """The score of a pair, simulated if it was not yet; the worst once all runs are spent."""
        if pair not in self._scores:
            if self.spent:
                return Score(math.inf, math.inf)
            self._scores[pair] = self._run(pair)
        return self._scores[pair]

    def _take_reference(self) -> Race:
        """Run static-max and the fastest pair: the better of them is what has to be kept."""
        fastest: Pair = (self.size[0] - 1, self.size[1] - 1)
        runs = []
        for policy in (get_policy(REFERENCE), self.policy(fastest)):
            simulation, run = self._started(policy)
            run(math.inf)
            runs.append(simulation)
        self._end_s = runs[0].now_s
        self._allowed = _better(*(allowance(self._measured(simulation)) for simulation in runs))
        race = Race(self._scenario, self._allowed)
        self._scores[fastest] = score = self._scored(runs[1])
        race.ended(score, runs[1])
        return race

    def _run(self, pair: Pair) -> Score:
        last_s, total = float(self._scenario.trace.arrival_s[-1]), len(self._scenario.trace)
        simulation, run = self._started(self.policy(pair))
        for at_s in self._race.looks_s(last_s + PATIENCE * max(self._end_s - last_s, 1.0)):
            run(at_s)
            if simulation.finished == total:
                break
            if (lost := self._race.lost(simulation)) is not None:
                return lost
        score = self._scored(simulation)
        self._race.ended(score, simulation)
        return score

    def _scored(self, simulation: Simulation) -> Score:
        end_s, energy_j = simulation.now_s, simulation.energy_j()
        given_up = simulation.finished < len(self._scenario.trace)
        short = self._short(self._measured(simulation))
        # At fixed clocks idling takes the same power for ever, so that one second tells it.
        simulation.extend_to(end_s + 1.0)
        idle_w = simulation.energy_j() - energy_j
        return short._replace(
            short=short.short + float(given_up),
            energy_j=energy_j + idle_w * (self._end_s - end_s),
        )

    def _short(self, result: Result) -> Score:
        assert self._allowed is not None
        allowed = self._allowed
        return worst(
            (PREFILL, allowed.ttft, result.ttft_attainment),
            (DECODE, allowed.itl, result.itl_attainment),
            (DECODE, allowed.itl_tokens, result.itl_token_attainment),
        )

    def _started(self, policy: Policy) -> tuple[Simulation, Callable[[float], None]]:
        """A simulation, and what runs it up to an instant."""
        scenario, total = self._scenario, len(self._scenario.trace)
        self.count += 1
        simulation = Simulation(
            scenario.cluster,
            scenario.configured(policy),
            scenario.trace,
            seed=scenario.file.seed,
            plant=scenario.plant,
        )
        before = (self.count - 1) * total

        def report(simulated_s: float, finished: int) -> None:
            if self._progress is not None:
                self._progress(SEARCH, simulated_s, (before + finished) // (self._most + 1))

        return simulation, lambda until_s: simulation.run(report, until_s=until_s)

    def _measured(self, simulation: Simulation) -> Result:
        return measure(
            NAME,
            simulation.record(),
            self._scenario.cluster.slo,
            reference_energy_j=math.inf,
            wall_s=0.0,
        )


def _better(first: Attainment, second: Attainment) -> Attainment:
    """The greater of each; of what only one attained, that."""
    others = dataclasses.asdict(second)
    kept = {
        name: float(np.fmax(one, others[name])) for name, one in dataclasses.asdict(first).items()
    }
    return Attainment(**kept)


def _head(scenario: Scenario) -> Scenario | None:
    """The first `HEAD_S` seconds; None where they are most of the trace, or no sample of it."""
    trace = scenario.trace
    last_s = float(trace.arrival_s[-1])
    quarters, _ = np.histogram(trace.arrival_s, bins=4, range=(0.0, last_s))
    uneven = np.abs(quarters / len(trace) - 0.25) > EVEN * 0.25
    if last_s < 2 * HEAD_S or uneven.any():
        return None
    return dataclasses.replace(scenario, trace=window(trace, 0.0, HEAD_S))


def _levels(scenario: Scenario, role: Role) -> tuple[float, ...]:
    table_mhz = scenario.cluster.hardware.clocks_mhz
    if scenario.file.levels is not None:
        return parse_levels(scenario.file.levels).levels(table_mhz)
    return levels_of_role(role, table_mhz)
