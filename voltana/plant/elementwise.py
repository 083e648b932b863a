"""Time of kernels that stream values through memory: norms, activations, embeddings, sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.cost import Cost

if TYPE_CHECKING:
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.operators import Elementwise
    from voltana.values import FloatArray


def elementwise_cost(
    hardware: HardwareProfile, operator: Elementwise, tokens: FloatArray, element_bytes: float
) -> Cost:
    """Cost of `operator` for an array of token counts; all parts have its shape."""
    fit = hardware.elementwise
    tokens = np.asarray(tokens, dtype=float)
    elements = operator.count * operator.elements * tokens
    memory = elements * element_bytes / (hardware.memory_bandwidth * fit.bandwidth_share)
    chain = operator.count * fit.row_s * operator.row * (tokens > 0)
    return Cost(
        kind="elementwise",
        flops=elements,
        bytes=elements * element_bytes,
        compute_s=fit.issue_share * memory + chain,
        memory_s=memory,
        serial_s=np.full_like(memory, operator.count * fit.kernel_s),
        overlap=fit.overlap,
    )
