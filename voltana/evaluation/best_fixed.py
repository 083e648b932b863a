"""The policy ``best-fixed``: the best pair of fixed clocks for one trace, searched in hindsight.

Of the pairs of a prefill and a decode clock over the default policy's levels, with its routers: the
one of least energy whose attainments are each within a point of what static-max attains on the same
trace and seed; the fastest pair if there is none.

A grid of 28 levels each has 784 pairs; at most `MOST_RUNS` simulations are made. That is enough
under these assumptions, each about one clock while the other stays:

- attainment does not fall when a clock rises, so that what is allowed begins at some clock;
- from there on energy over the prefill clock is unimodal: a slower clock saves until computing
  takes so long that idle power and thinner batches take it back;
- energy over the decode clock is unimodal between the clocks at which the router lets one more
  instance sleep, where it jumps.

So the decode clock is scanned, then searched around the best by Fibonacci search (J. Kiefer,
"Sequential minimax search for a maximum", Proc. AMS 4, 1953), the prefill clock by Fibonacci search
at once, and both once more near the pair that was found. The clocks are not independent (a slower
decode fills the KV cache, for which prefill then waits), so that the neighbours of the best pair
are tried until none is better. Where an instance may just sleep or not, chance decides which, and
no assumption helps: what is left of the runs goes to the other decode clocks, nearest first. The
tests hold the outcome against all pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from voltana.evaluation.bound.compare import allowance
from voltana.evaluation.metrics import measure
from voltana.levels import parse_levels
from voltana.plant.simulation import Simulation
from voltana.policies import get_policy
from voltana.policies.default import levels_of_role
from voltana.policies.fixed import fixed_name
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voltana.evaluation.metrics import Result
    from voltana.evaluation.scenario import Scenario
    from voltana.policy import Policy
    from voltana.slo import Attainment

    Progress = Callable[[str, float, int], None]

NAME = "best-fixed"
REFERENCE = "static-max"

MOST_RUNS = 39
"""Simulations of a search, the reference's among them; the comparison itself runs the 40th."""

PATIENCE = 4.0
"""A run that takes this many times as long as static-max is given up: it keeps no attainment."""

SCANNED = 7
"""Decode clocks of the first scan."""

WINDOW = 3
"""Levels to either side of the pair found that are searched again."""

NEIGHBOURS = ((0, -1), (-1, 0), (-1, 1), (1, -1), (0, 1), (1, 0), (-1, -1))
"""Steps in the prefill and the decode level, those that usually save first."""

PREFILL, DECODE = 0, 1

Pair = tuple[int, int]
"""Indices of a prefill and of a decode level."""


class Score(NamedTuple):
    """How good a pair is; the smaller the better.

    Attributes:
        short: By how much its worst attainment falls short of what is allowed; 0 where none does.
        energy_j: Energy up to the end of static-max's run; of a longer one without its idle power.
    """

    short: float
    energy_j: float


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
            progress: Called with the name, simulated seconds and the searched share of the trace's
                requests.
        """
        runs = PairRuns(scenario, progress)
        best = search(runs)
        if progress is not None:
            progress(NAME, scenario.trace.arrival_s[-1], len(scenario.trace))
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
        result = self._measured(simulation)
        # At fixed clocks idling takes the same power for ever, so that one second tells it.
        simulation.extend_to(end_s + 1.0)
        idle_w = simulation.energy_j() - energy_j
        return Score(self._short(result), energy_j + idle_w * (self._end_s - end_s))

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
                self._progress(NAME, simulated_s, (before + finished) // (self._most + 1))

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


def search(runs: PairRuns) -> Pair:
    """The best pair that the runs reach; the fastest if even that one keeps too little."""
    best: Pair = (runs.size[0] - 1, runs.size[1] - 1)
    if runs.score(best).short > 0:
        return best
    stride = math.ceil(runs.size[DECODE] / SCANNED)
    scanned = ((best[PREFILL], index) for index in range(best[DECODE], -1, -stride))
    best = min(scanned, key=runs.score)
    for axis, window in ((DECODE, stride - 1), (PREFILL, runs.size[PREFILL])):
        best = _along(runs, best, axis, window)
    for axis in (DECODE, PREFILL):
        best = _along(runs, best, axis, WINDOW)
    return _descended(runs, best)


def _descended(runs: PairRuns, best: Pair) -> Pair:
    """The best after steps to better neighbours, then to any better decode clock."""
    better: Pair | None = best
    while better is not None:
        best = better
        others = (*_neighbours(runs, best), *_other_decode_clocks(runs, best))
        score = runs.score(best)
        better = next((pair for pair in others if runs.score(pair) < score), None)
    return best


def _along(runs: PairRuns, start: Pair, axis: int, window: int) -> Pair:
    """The best on the line through a pair along one axis, within so many levels of it."""

    def at(index: int) -> Pair:
        return (index, start[DECODE]) if axis == PREFILL else (start[PREFILL], index)

    low = max(start[axis] - window, 0)
    high = min(start[axis] + window, runs.size[axis] - 1)
    found = at(fibonacci_search(low, high, lambda index: runs.score(at(index))))
    return min(found, start, key=runs.score)


def fibonacci_search(low: int, high: int, score: Callable[[int], Score]) -> int:
    """The index of the best score in [`low`, `high`].

    Up to some index scores fall short, where one has to look above; from there on they are
    unimodal. What lies beyond `high` is never asked for, so that the range may have any length.
    """
    part, whole = 1, 2
    while whole - 1 < high - low + 1:
        part, whole = whole, part + whole
    before = low - 1  # what is left is the whole - 1 indices after it
    while whole > 2:
        left, right = before + whole - part, before + part
        if right <= high and (score(left).short > 0 or score(right) < score(left)):
            before = left
        part, whole = whole - part, part
    return before + 1


def _neighbours(runs: PairRuns, pair: Pair) -> Iterator[Pair]:
    for move in NEIGHBOURS:
        prefill, decode = pair[0] + move[0], pair[1] + move[1]
        if 0 <= prefill < runs.size[0] and 0 <= decode < runs.size[1]:
            yield prefill, decode


def _other_decode_clocks(runs: PairRuns, pair: Pair) -> list[Pair]:
    """Pairs with the same prefill clock, the nearest decode clocks first."""
    clocks = sorted(range(runs.size[DECODE]), key=lambda index: abs(index - pair[DECODE]))
    return [(pair[PREFILL], index) for index in clocks[1:]]


def _levels(scenario: Scenario, role: Role) -> tuple[float, ...]:
    table_mhz = scenario.cluster.hardware.clocks_mhz
    if scenario.file.levels is not None:
        return parse_levels(scenario.file.levels).levels(table_mhz)
    return levels_of_role(role, table_mhz)
