"""Least energy of prefill: speed scaling with deadlines on a pool of relaxed instances.

Any price of time gives a bound (weak duality; the optimum's own prices give it exactly): with a
price `lambda(t)` of work, each request is worth the least price of its window, and the machines
earn at most `PowerCurve.profit_w`. So for every feasible schedule

    energy >= sum_i work_i min_{window i} lambda - integral of profit(lambda(t)) dt.

A request that misses its deadline has the window up to the end; its work is worth the price of
idle time only. The bound subtracts the dearest requests of the number that may miss, and takes
the best of the optimal prices capped at several heights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.bound.hull import PowerCurve
from voltana.evaluation.bound.iteration_cost import prefill_steps
from voltana.evaluation.bound.taut_string import optimal_speeds
from voltana.values import attended_pairs

if TYPE_CHECKING:
    from voltana.plant.cluster import ClusterSpec
    from voltana.plant.iteration import PlantModel
    from voltana.plant.workload.trace import IntArray
    from voltana.values import FloatArray

_PAIRS = 1e6
_CAPS = 40
"""Heights at which the optimal prices are cut off, of which the best is taken."""

_SHORTEST_S = 1e-3
"""Least window of a request; one that cannot keep its threshold has none."""

_FINE, _STEP = 1024, 16


@dataclass(frozen=True, slots=True, eq=False)
class PrefillWork:
    """What prefill has to do.

    Attributes:
        curve: Power above idle of all instances against tokens/s.
        pair_tokens: Work of one attended pair, in tokens.
        largest_j: Most energy above idle of one iteration.
        longest_iteration_s: Most time of one, at the slowest clock.
        machines: Number of instances.
    """

    curve: PowerCurve
    pair_tokens: float
    largest_j: float
    longest_iteration_s: float
    machines: int


def prefill_work(plant: PlantModel, cluster: ClusterSpec, longest_prompt: int) -> PrefillWork:
    """The power curve of the pooled prefill instances, batches of any size allowed.

    The tokens of a batch and its attended pairs are taken as if they were computed one after the
    other, which they are: the plant adds their times and energies.

    Args:
        plant: One instance.
        cluster: How many there are, and the largest batch.
        longest_prompt: Tokens of the longest prompt, each of which attends to at most these.
    """
    machines = cluster.prefill + cluster.colocated
    largest, smallest = _batch_cells(cluster.engine.max_prefill_tokens)
    none = np.zeros_like(largest)
    speeds, powers_w, pair_s, pair_j = [], [], [], []
    largest_j = longest_s = 0.0
    for clock_mhz in plant.hardware.clocks_mhz:
        seconds, joules = prefill_steps(plant, smallest, none, clock_mhz)
        more_s, more_j = prefill_steps(plant, smallest[-1:], none[-1:] + _PAIRS, clock_mhz)
        pair_s.append(float(more_s[0] - seconds[-1]) / _PAIRS)
        pair_j.append(float(more_j[0] - joules[-1]) / _PAIRS)
        speeds.append(largest / seconds)
        powers_w.append(joules / seconds)
        longest_s = max(longest_s, float(seconds[-1]) + pair_s[-1] * largest[-1] * longest_prompt)
        largest_j = max(largest_j, float(joules[-1]) + pair_j[-1] * largest[-1] * longest_prompt)
    tokens = PowerCurve.of(np.concatenate(speeds), np.concatenate(powers_w), 1)
    pair_tokens = _pair_tokens(tokens, np.array(pair_s), np.array(pair_j))
    speeds.append(pair_tokens / np.array(pair_s))
    powers_w.append(np.array(pair_j) / np.array(pair_s))
    curve = PowerCurve.of(np.concatenate(speeds), np.concatenate(powers_w), machines)
    return PrefillWork(curve, pair_tokens, largest_j, longest_s, machines)


def _batch_cells(most: int) -> tuple[FloatArray, FloatArray]:
    """Largest and smallest batch of each cell: the tokens of one at the cost of the other."""
    fine = np.arange(1.0, min(_FINE, most) + 1)
    coarse = np.unique(np.append(np.arange(_FINE + _STEP, most, _STEP, dtype=float), float(most)))
    largest = np.union1d(fine, coarse)
    return largest, np.concatenate(([1.0], largest[:-1] + 1.0))


def _pair_tokens(tokens: PowerCurve, pair_s: FloatArray, pair_j: FloatArray) -> float:
    """The most work that a pair can count for without bending the power curve of tokens.

    At every price of time a token has its least cost; a pair must cost no less than its work.
    """
    profits_w = tokens.profit_w(tokens.slopes)
    cost_j = (pair_j[:, None] + pair_s[:, None] * profits_w[None, :]).min(axis=0)
    return float(np.min(cost_j / tokens.slopes))


@dataclass(frozen=True, slots=True)
class PrefillBound:
    """The bound and what the slack for noise depends on.

    Attributes:
        energy_j: Least energy above idle.
        priced_j: Energy and priced time of the schedule, together.
        largest_j: The same of one iteration, at most.
    """

    energy_j: float
    priced_j: float
    largest_j: float


def prefill_bound_j(
    arrival_s: FloatArray,
    prompt_tokens: IntArray,
    transfer_s: FloatArray,
    work: PrefillWork,
    *,
    ttft_s: float,
    may_miss: int,
) -> PrefillBound:
    """Least energy above idle of the prefill of a trace.

    Args:
        arrival_s: When each request arrives, ascending, shape (n,).
        prompt_tokens: Shape (n,).
        transfer_s: Time from the end of a request's prefill to its first token, shape (n,).
        work: The instances.
        ttft_s: Threshold of the time to first token.
        may_miss: Requests that may miss it.
    """
    amount = work_tokens(prompt_tokens, work.pair_tokens)
    # Later deadlines only help: this brings them into the order of arrival, as YDS is used here.
    deadline_s = np.maximum.accumulate(arrival_s + np.maximum(ttft_s - transfer_s, _SHORTEST_S))
    times, speeds = optimal_speeds(arrival_s, deadline_s, amount)
    prices = work.curve.prices(speeds)
    durations_s = np.diff(times)
    worth = _window_minimum(
        prices, np.searchsorted(times, arrival_s), np.searchsorted(times, deadline_s)
    )
    base = float(work.curve.slopes[0])
    best = PrefillBound(0.0, 0.0, 0.0)
    for cap in np.linspace(base, prices.max(), _CAPS):
        capped = np.minimum(worth, cap)
        profits_w = work.curve.profit_w(np.minimum(prices, cap))
        excess_j = np.sort((capped - base) * amount)
        missed_j = float(excess_j[len(excess_j) - may_miss :].sum())
        priced_j = float(capped @ amount)
        energy_j = priced_j - float(profits_w @ durations_s) - missed_j
        if energy_j > best.energy_j:
            time_price_w = float(profits_w.max()) / work.machines
            best = PrefillBound(
                energy_j, priced_j, work.largest_j + time_price_w * work.longest_iteration_s
            )
    return best


def work_tokens(prompt_tokens: IntArray, pair_tokens: float) -> FloatArray:
    """Work of whole prompts, in tokens."""
    amounts: FloatArray = prompt_tokens + pair_tokens * np.array(
        [attended_pairs(int(n), 0) for n in prompt_tokens]
    )
    return amounts


def _window_minimum(prices: FloatArray, first: IntArray, last: IntArray) -> FloatArray:
    return np.array([prices[a:b].min() for a, b in zip(first, last, strict=True)])
