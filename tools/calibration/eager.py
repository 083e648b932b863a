"""Forward passes of small transformers as Hugging Face runs them: one kernel an operation.

Eager attention writes its scores to memory and reads them again for scaling, mask and softmax. The
counts below are those of the models' code; the residual stream is copied when heads are split and
joined, added to and normalised.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tools.calibration.data import DATA, columns, rows
from voltana.plant.elementwise import elementwise_cost
from voltana.plant.gemm import batched_cost
from voltana.plant.model import BYTES_PER_ELEMENT
from voltana.plant.operators import Elementwise

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.plant.cost import Cost
    from voltana.plant.hardware import HardwareProfile
    from voltana.values import FloatArray

FILE = "energaizer-a100-dvfs/prefill_dvfs_a100pcie40.csv"
HARDWARE = "a100-pcie-40gb"
_STREAM_KERNELS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class EagerModel:
    """Architecture, and how many element-wise kernels a layer has.

    Attributes:
        layers: Number of layers.
        hidden_size: Width of the residual stream.
        heads: Attention heads.
        intermediate_size: Width of the feed-forward part.
        activation_kernels: 1 for a fused activation; 8 for the tanh form of GELU written out.
        score_kernels: Scale, mask and softmax, and what else passes over the scores.
    """

    layers: int
    hidden_size: int
    heads: int
    intermediate_size: int
    activation_kernels: int
    score_kernels: int


MODELS = {
    "bertmodel": EagerModel(
        layers=24,
        hidden_size=1024,
        heads=16,
        intermediate_size=4096,
        activation_kernels=1,
        score_kernels=3,
    ),
    "gpt2model": EagerModel(
        layers=12,
        hidden_size=768,
        heads=12,
        intermediate_size=3072,
        activation_kernels=8,
        score_kernels=3,
    ),
    "optmodel": EagerModel(
        layers=24,
        hidden_size=2048,
        heads=32,
        intermediate_size=8192,
        activation_kernels=1,
        score_kernels=4,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One workload at many clocks.

    Attributes:
        model: Key of `MODELS`.
        dtype: Type of weights and activations.
        batch: Sequences.
        length: Tokens of each.
        clocks_mhz: Mean clocks that were measured, ascending.
        seconds: Time of a forward pass at them.
    """

    model: str
    dtype: str
    batch: int
    length: int
    clocks_mhz: FloatArray
    seconds: FloatArray

    @property
    def launch_bound(self) -> bool:
        """Whether the host, not the device, sets the pace: few tokens through many kernels."""
        tokens = self.batch * self.length
        return self.dtype == "bf16" and tokens * (2 if self.model == "optmodel" else 1) <= 1024


def workloads(data_dir: Path = DATA) -> list[Workload]:
    """All measured workloads."""
    table = defaultdict(list)
    for row in rows(FILE, data_dir):
        table[row["model"], row["prec"], int(row["batch"]), int(row["seq"])].append(row)
    found = []
    for (model, dtype, batch, length), lines in table.items():
        clocks, milliseconds = columns(lines, "sm_clock_actual_mhz", "latency_ms")
        order = np.argsort(clocks)
        found.append(
            Workload(
                model=model,
                dtype=dtype,
                batch=batch,
                length=length,
                clocks_mhz=clocks[order],
                seconds=milliseconds[order] * 1e-3,
            )
        )
    return found


def costs(hardware: HardwareProfile, workload: Workload) -> list[Cost]:
    """Operators of one forward pass."""
    model, dtype = MODELS[workload.model], workload.dtype
    layers, hidden, width = model.layers, model.hidden_size, model.intermediate_size
    tokens = np.array([float(workload.batch * workload.length)])
    length, head = np.array([float(workload.length)]), hidden // model.heads
    matrices, scores = workload.batch * model.heads, workload.length * model.heads
    return [
        batched_cost(hardware, 1, tokens, hidden, hidden, dtype=dtype, count=4 * layers),
        batched_cost(hardware, 1, tokens, width, hidden, dtype=dtype, count=layers),
        batched_cost(hardware, 1, tokens, hidden, width, dtype=dtype, count=layers),
        batched_cost(hardware, matrices, length, workload.length, head, dtype=dtype, count=layers),
        batched_cost(hardware, matrices, length, head, workload.length, dtype=dtype, count=layers),
        *(
            elementwise_cost(
                hardware,
                Elementwise(name=name, elements=2 * row, row=row, count=kernels * layers),
                tokens * share,
                BYTES_PER_ELEMENT[dtype],
            )
            for name, row, kernels, share in (
                ("stream", hidden, _STREAM_KERNELS, 1.0),
                ("activation", width, model.activation_kernels, 1.0),
                ("scores", workload.length, model.score_kernels, scores / workload.length),
            )
        ),
    ]
