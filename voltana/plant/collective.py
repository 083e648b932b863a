"""Time of element-wise kernels, of sums over a tensor-parallel group, and of KV transfers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.cost import Cost

if TYPE_CHECKING:
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.operators import AllReduce, Elementwise
    from voltana.values import FloatArray


def elementwise_cost(
    hardware: HardwareProfile, operator: Elementwise, tokens: FloatArray, element_bytes: float
) -> Cost:
    """Cost of streaming `operator` for arrays of token counts."""
    fit = hardware.elementwise
    elements = operator.count * operator.elements * tokens
    moved = elements * element_bytes
    memory = moved / (hardware.memory_bandwidth * fit.bandwidth_share)
    return Cost(
        kind="elementwise",
        flops=elements,
        bytes=moved,
        compute_s=fit.compute_share * memory,
        memory_s=memory,
        serial_s=np.full_like(memory, operator.count * fit.kernel_s),
        overlap=fit.overlap,
    )


def all_reduce_cost(
    hardware: HardwareProfile,
    operator: AllReduce,
    tokens: FloatArray,
    devices: int,
    element_bytes: float,
) -> Cost:
    """Cost of summing over `devices` boards."""
    fit = hardware.collective
    message = operator.elements * tokens * element_bytes
    wire = 2.0 * (devices - 1) / devices * message / (hardware.link_bandwidth * fit.bandwidth_share)
    return Cost(
        kind="collective",
        flops=np.zeros_like(message),
        bytes=2.0 * operator.count * message,
        compute_s=np.zeros_like(message),
        memory_s=np.zeros_like(message),
        fixed_s=operator.count * (fit.latency_s + wire),
    )


def transfer_s(hardware: HardwareProfile, message_bytes: float) -> float:
    """Time to move `message_bytes` from one board to another."""
    fit = hardware.collective
    return fit.transfer_latency_s + message_bytes / fit.transfer_bandwidth
