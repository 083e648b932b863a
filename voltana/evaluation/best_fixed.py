"""The policy ``best-fixed``: the best pair of fixed clocks for one trace, searched in hindsight.

Of the pairs of a prefill and a decode clock over the default policy's levels, with its routers: the
one of least energy whose attainments are each within a point of what static-max attains on the same
trace and seed; the fastest pair if there is none.

Every pair costs a simulation of the trace; `voltana.evaluation.pair_search` chooses which of them
are made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.evaluation.bound.compare import allowance
from voltana.evaluation.metrics import measure
from voltana.evaluation.pair_search import Score, search
from voltana.levels import parse_levels
from voltana.plant.simulation import Simulation
from voltana.policies import get_policy
from voltana.policies.default import levels_of_role
from voltana.policies.fixed import fixed_name
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.evaluation.metrics import Result
    from voltana.evaluation.pair_search import Pair
    from voltana.evaluation.scenario import Scenario
    from voltana.policy import Policy
    from voltana.slo import Attainment

    Progress = Callable[[str, float, int], None]

NAME = "best-fixed"
SEARCH = "best-fixed?"
"""What progress calls the search; the run of what it found goes by the policy's name."""

REFERENCE = "static-max"

MOST_RUNS = 39
"""Simulations of a search, the reference's among them; the comparison itself runs the 40th."""

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
        kept: Whether attainments are within a point of static-max; else it is the fastest pair.
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
            "within_a_point_of_static_max": self.kept,
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
        runs = PairRuns(scenario, progress)
        best = search(runs)
        if progress is not None:
            progress(SEARCH, scenario.trace.arrival_s[-1], len(scenario.trace))
        prefill_mhz, decode_mhz = runs.clocks_mhz(best)
        return Choice(
            policy=runs.policy(best),
            prefill_mhz=prefill_mhz,
            decode_mhz=decode_mhz,
            kept=runs.score(best).short == 0,
            runs=runs.count,
        )


class PairRuns:
    """Simulates pairs of clocks, each once.

    Args:
        scenario: What is served.
        progress: As in `BestFixed.find`.
        most: Simulations that may be run; the reference's is the first.

    Attributes:
        size: Levels of prefill and of decode.
        count: Simulations so far.
    """

    def __init__(
        self, scenario: Scenario, progress: Progress | None = None, *, most: int = MOST_RUNS
    ) -> None:
        self._scenario = scenario
        self._progress = progress
        self._most = most
        self._levels = tuple(_levels(scenario, role) for role in (Role.PREFILL, Role.DECODE))
        self.size = (len(self._levels[0]), len(self._levels[1]))
        self.count = 0
        self._scores: dict[Pair, Score] = {}
        self._allowed: Attainment | None = None
        self._end_s = math.inf
        self._take_reference()

    @property
    def spent(self) -> bool:
        """Whether nothing more may be simulated."""
        return self.count >= self._most

    def clocks_mhz(self, pair: Pair) -> tuple[float, float]:
        """The prefill and the decode clock of a pair."""
        return self._levels[0][pair[0]], self._levels[1][pair[1]]

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

    def _take_reference(self) -> None:
        simulation = self._simulated(get_policy(REFERENCE), math.inf)
        self._end_s = simulation.now_s
        self._allowed = allowance(self._measured(simulation))

    def _run(self, pair: Pair) -> Score:
        last_s = float(self._scenario.trace.arrival_s[-1])
        simulation = self._simulated(
            self.policy(pair), last_s + PATIENCE * max(self._end_s - last_s, 1.0)
        )
        end_s, energy_j = simulation.now_s, simulation.energy_j()
        given_up = simulation.finished < len(self._scenario.trace)
        short = self._short(self._measured(simulation)) + float(given_up)
        # At fixed clocks idling takes the same power for ever, so that one second tells it.
        simulation.extend_to(end_s + 1.0)
        idle_w = simulation.energy_j() - energy_j
        return Score(short, energy_j + idle_w * (self._end_s - end_s))

    def _short(self, result: Result) -> float:
        assert self._allowed is not None
        allowed = self._allowed
        pairs = (
            (allowed.ttft, result.ttft_attainment),
            (allowed.itl, result.itl_attainment),
            (allowed.itl_tokens, result.itl_token_attainment),
        )
        worst = max((w - kept for w, kept in pairs if not math.isnan(w)), default=0.0)
        return worst if worst > 1e-9 else 0.0

    def _simulated(self, policy: Policy, until_s: float) -> Simulation:
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

        simulation.run(report, until_s=until_s)
        return simulation

    def _measured(self, simulation: Simulation) -> Result:
        return measure(
            NAME,
            simulation.record(),
            self._scenario.cluster.slo,
            reference_energy_j=math.inf,
            wall_s=0.0,
        )


def _levels(scenario: Scenario, role: Role) -> tuple[float, ...]:
    table_mhz = scenario.cluster.hardware.clocks_mhz
    if scenario.file.levels is not None:
        return parse_levels(scenario.file.levels).levels(table_mhz)
    return levels_of_role(role, table_mhz)
