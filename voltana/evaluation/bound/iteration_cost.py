"""Seconds and joules of many iterations at once, without the board's power limit.

Leaving the limit out only lowers a bound: where it acts, the plant takes latency and power as
linear between two clocks, so the energy lies above the chord of the two unlimited iterations (the
product of a falling and a rising linear function is concave).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.cost import ClockState
from voltana.plant.power import LAUNCH

if TYPE_CHECKING:
    from voltana.plant.cost import Cost
    from voltana.plant.iteration import PlantModel
    from voltana.values import FloatArray

    Grid = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    """Numbers in several dimensions."""


def idle_floor_w(plant: PlantModel) -> float:
    """Least power of an idle instance, over all clocks, in W."""
    return min(plant.idle_power_w(clock_mhz) for clock_mhz in plant.hardware.clocks_mhz)


def prefill_steps(
    plant: PlantModel, tokens: FloatArray, pairs: FloatArray, clock_mhz: float
) -> tuple[FloatArray, FloatArray]:
    """Latency in s and energy above `idle_floor_w` in J of prefill iterations.

    Args:
        plant: The instance.
        tokens: New tokens of each iteration, shape (n,).
        pairs: Its attended pairs, shape (n,).
        clock_mhz: Clock of all of them.
    """
    latency = plant.latency
    costs = (
        *latency.token_costs(tokens),
        latency.head_cost(np.ones_like(tokens)),
        latency.prefill_attention_cost(tokens, pairs),
    )
    return _totals(plant, costs, clock_mhz)


def decode_steps(plant: PlantModel, requests: FloatArray, kv_tokens: Grid) -> tuple[Grid, Grid]:
    """Latency in s and energy above `idle_floor_w` in J of decode iterations at every clock.

    Args:
        plant: The instance.
        requests: Whole numbers of requests, shape (m,).
        kv_tokens: Their cached tokens, several values for each of them, shape (m, n).

    Returns:
        Two arrays of shape (clocks, m, n).
    """
    latency = plant.latency
    padded = np.array([latency.padded_batch(int(n)) for n in requests], dtype=float)
    batch = (*latency.token_costs(padded), latency.head_cost(padded))
    flat = np.repeat(requests, kv_tokens.shape[1]), kv_tokens.ravel()
    attention = (latency.decode_attention_cost(*flat),)
    clocks_mhz = plant.hardware.clocks_mhz
    shape = (len(clocks_mhz), *kv_tokens.shape)
    seconds: Grid = np.empty(shape)
    joules: Grid = np.empty(shape)
    for i, clock_mhz in enumerate(clocks_mhz):
        batch_s, batch_j = _totals(plant, batch, clock_mhz)
        attention_s, attention_j = _totals(plant, attention, clock_mhz)
        seconds[i] = batch_s[:, None] + attention_s.reshape(kv_tokens.shape)
        joules[i] = batch_j[:, None] + attention_j.reshape(kv_tokens.shape)
    return seconds, joules


def _totals(
    plant: PlantModel, costs: tuple[Cost, ...], clock_mhz: float
) -> tuple[FloatArray, FloatArray]:
    state, clock = ClockState.of(plant.hardware, clock_mhz), plant.power.at(clock_mhz)
    seconds: FloatArray = np.zeros(np.shape(costs[0].compute_s))
    joules: FloatArray = np.zeros(np.shape(costs[0].compute_s))
    for cost in costs:
        part_s = np.asarray(cost.seconds(state), dtype=float)
        core_j, fixed_j = plant.power.operation_j(
            cost.kind, np.asarray(cost.flops, dtype=float), np.asarray(cost.bytes, dtype=float)
        )
        power_w = clock.waiting_w if cost.kind == LAUNCH else clock.running_w
        seconds = seconds + part_s
        joules = joules + power_w * part_s + clock.core_share * core_j + fixed_j
    joules = plant.tensor_parallel * joules - idle_floor_w(plant) * seconds
    return seconds, joules
