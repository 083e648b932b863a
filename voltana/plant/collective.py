"""Time of sums over a tensor-parallel group, and of KV transfers between instances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.cost import Cost

if TYPE_CHECKING:
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.operators import AllReduce
    from voltana.values import FloatArray


def all_reduce_s(hardware: HardwareProfile, message_bytes: FloatArray, boards: int) -> FloatArray:
    """Time to sum a message over `boards`; shape as `message_bytes`.

    A small message is read whole by every board from all others (one shot); a large one is
    scattered and gathered (two shots), which moves 2 (n - 1)/n of it. The faster way is taken.
    """
    fit = hardware.collective
    bandwidth = hardware.link_bandwidth * fit.bandwidth_share
    one_shot = fit.one_shot_s + (boards - 1) * message_bytes / bandwidth
    two_shot = fit.two_shot_s + 2.0 * (boards - 1) / boards * message_bytes / bandwidth
    ring = np.where(message_bytes > fit.ring_bytes, fit.ring_s, 0.0)
    return np.asarray(np.minimum(one_shot, two_shot) + ring)


def all_reduce_cost(
    hardware: HardwareProfile,
    operator: AllReduce,
    tokens: FloatArray,
    boards: int,
    element_bytes: float,
) -> Cost:
    """Cost of `operator` over `boards`; the link's clock is its own, so no part scales."""
    message = operator.elements * np.asarray(tokens, dtype=float) * element_bytes
    zeros = np.zeros_like(message)
    return Cost(
        kind="collective",
        flops=operator.count * (boards - 1) / boards * message / element_bytes,
        bytes=2.0 * operator.count * message,
        compute_s=zeros,
        memory_s=zeros,
        fixed_s=operator.count * all_reduce_s(hardware, message, boards),
    )


def transfer_s(hardware: HardwareProfile, message_bytes: float) -> float:
    """Time to move `message_bytes` from one board to another of the same host."""
    fit = hardware.collective
    bandwidth = hardware.link_bandwidth * fit.transfer_bandwidth_share
    return fit.transfer_s + message_bytes / bandwidth
