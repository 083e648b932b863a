"""Latency of an engine iteration: a sum of operators, each with a compute and a memory part.

Which part depends on what, for those who build tables of it:

* `LatencyModel.token_costs` (GEMM, element-wise, collective, launch): on the number of tokens
  alone, ``prefill_tokens + decode_requests``; a pure decode batch counts as
  `LatencyModel.padded_batch` tokens.
* `LatencyModel.head_cost` (the output embedding): on the rows that are sampled, `logit_rows`.
* `LatencyModel.prefill_attention_cost`: on attended pairs and prefill tokens.
* `LatencyModel.decode_attention_cost`: on decode requests and their KV tokens.

All of them take arrays and give `Cost`, which gives seconds at any clock.
"""

from __future__ import annotations

import bisect
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.plant import operators
from voltana.plant.attention import decode_cost, prefill_cost
from voltana.plant.collective import all_reduce_cost, transfer_s
from voltana.plant.cost import ClockState, Cost
from voltana.plant.elementwise import elementwise_cost
from voltana.plant.gemm import gemm_cost
from voltana.plant.operators import OperatorTime
from voltana.plant.weight_formats import weight_format
from voltana.values import Load, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.model import ModelProfile
    from voltana.values import FloatArray

ACTIVATION_BYTES = 2.0


class LatencyModel:
    """Latency of the iterations of one instance.

    Args:
        hardware: Its boards.
        model: The model it serves.
        tensor_parallel: How many boards it has.
    """

    def __init__(
        self, hardware: HardwareProfile, model: ModelProfile, tensor_parallel: int = 1
    ) -> None:
        if tensor_parallel < 1 or model.heads % tensor_parallel:
            divisors = [n for n in range(1, model.heads + 1) if model.heads % n == 0]
            raise invalid(
                "tensor_parallel",
                tensor_parallel,
                f"a divisor of the {model.heads} attention heads of {model.name}",
                f"Choose one of {', '.join(map(str, divisors))}.",
            )
        self.hardware = hardware
        self.model = model
        self.tensor_parallel = tensor_parallel
        self._kv_bytes, self._kv_copies = model.kv_bytes_per_token, model.kv_copies(tensor_parallel)
        self._gemms = operators.layer_gemms(model, tensor_parallel)
        self._head = operators.head_gemm(model, tensor_parallel)
        self._elementwise = operators.layer_elementwise(model, tensor_parallel)
        self._prefill_attention = operators.prefill_attention(model, tensor_parallel)
        self._decode_attention = operators.decode_attention(model, tensor_parallel)
        self._local_prefill = operators.prefill_attention(model, tensor_parallel, local=True)
        self._local_decode = operators.decode_attention(model, tensor_parallel, local=True)
        self.window = None if model.window is None else model.window.tokens
        self._arithmetic = weight_format(model.layer_dtype).arithmetic
        self._all_reduces = operators.all_reduces(model, tensor_parallel)

    def latency_s(self, load: Load, clock_mhz: float) -> float:
        """Time of an iteration with `load` at an SM clock; 0 for an empty load."""
        return sum(part.seconds for part in self.breakdown(load, clock_mhz))

    def breakdown(self, load: Load, clock_mhz: float) -> tuple[OperatorTime, ...]:
        """Time of each operator, over all layers, in an iteration with `load` at an SM clock."""
        clock = ClockState.of(self.hardware, clock_mhz)
        return tuple(_at(cost, clock) for cost in self.costs(load))

    def costs(self, load: Load) -> tuple[Cost, ...]:
        """Cost of each operator in an iteration with `load`."""
        phase = load.phase
        if phase is Phase.IDLE:
            return ()
        tokens = load.prefill_tokens + load.decode_requests
        if phase is Phase.DECODE:
            tokens = self.padded_batch(tokens)
        parts = [
            *self.token_costs(np.array([tokens], dtype=float)),
            self.head_cost(np.array([self.logit_rows(load)], dtype=float)),
        ]
        if load.prefill_tokens:
            new, pairs = load.prefill_tokens, load.prefill_attended_pairs
            parts += self._attend(self.prefill_attention_cost, new, pairs)
        if load.decode_requests:
            requests, cached = load.decode_requests, load.decode_kv_tokens
            parts += self._attend(self.decode_attention_cost, requests, cached)
        return tuple(parts)

    def _attend(self, attend: Callable[..., Cost], count: int, x: float) -> list[Cost]:
        """Attention of the layers that look at all, and of those that have a window."""
        counts = np.array([count], dtype=float)
        parts = [attend(counts, np.array([x], dtype=float))]
        if self.window is not None:
            within = np.array([min(x, count * self.window)], dtype=float)
            parts.append(attend(counts, within, local=True))
        return parts

    def padded_batch(self, requests: int) -> int:
        """Decode batch that really runs: padded to a captured CUDA graph, if there is one."""
        batches = self.hardware.launch.graph_batches
        index = bisect.bisect_left(batches, requests)
        return batches[index] if index < len(batches) else requests

    def logit_rows(self, load: Load) -> int:
        """Rows of the output embedding: one for each decode request, and one for all prompts.

        A load does not say how many prompts it holds. Up to the rows of a tile (64 to 128), reading
        the weights takes all the time, so their number hardly counts.
        """
        if not load.prefill_tokens:
            return self.padded_batch(load.decode_requests)
        return load.decode_requests + 1

    def token_costs(self, tokens: FloatArray) -> tuple[Cost, ...]:
        """GEMMs, element-wise kernels, collectives and launch, for arrays of token counts."""
        tokens = np.asarray(tokens, dtype=float)
        costs = [self._gemm_cost(gemm, tokens) for gemm in self._gemms]
        costs += [
            elementwise_cost(self.hardware, operator, tokens, ACTIVATION_BYTES)
            for operator in self._elementwise
        ]
        costs += [
            all_reduce_cost(self.hardware, operator, tokens, self.tensor_parallel, ACTIVATION_BYTES)
            for operator in self._all_reduces
        ]
        zeros = np.zeros_like(tokens)
        launch = zeros + self.hardware.launch.iteration_s
        costs.append(
            Cost(
                kind="launch",
                flops=zeros,
                bytes=zeros,
                compute_s=zeros,
                memory_s=zeros,
                fixed_s=launch,
            )
        )
        return tuple(costs)

    def head_cost(self, rows: FloatArray) -> Cost:
        """The output embedding, for arrays of row counts."""
        return self._gemm_cost(self._head, rows)

    def _gemm_cost(self, gemm: operators.Gemm, rows: FloatArray) -> Cost:
        """A product; in other arithmetic than that of the layers it is a kind of its own."""
        cost = gemm_cost(self.hardware, gemm, rows, gemm.dtype)
        arithmetic = weight_format(gemm.dtype).arithmetic
        return cost if arithmetic == self._arithmetic else replace(cost, kind=f"gemm_{arithmetic}")

    def prefill_attention_cost(
        self, tokens: FloatArray, pairs: FloatArray, *, local: bool = False
    ) -> Cost:
        """Prefill attention, for arrays of tokens and attended pairs.

        Args:
            tokens: New tokens.
            pairs: Query-key pairs that are attended to; of layers with a window, those within it.
            local: Whether of the layers with a window, or of the others.
        """
        attention = self._local_prefill if local else self._prefill_attention
        return prefill_cost(self.hardware, attention, tokens, pairs)

    def decode_attention_cost(
        self, requests: FloatArray, kv_tokens: FloatArray, *, local: bool = False
    ) -> Cost:
        """Decode attention, for arrays of requests and cached tokens; `local` as above."""
        attention = self._local_decode if local else self._decode_attention
        return decode_cost(self.hardware, attention, requests, kv_tokens)

    def token_part(self, tokens: FloatArray, clock_mhz: float) -> FloatArray:
        """Seconds of `token_costs` at a clock, for an array of token counts; shape as `tokens`."""
        clock = ClockState.of(self.hardware, clock_mhz)
        total = np.zeros_like(np.asarray(tokens, dtype=float))
        for cost in self.token_costs(tokens):
            total = total + cost.seconds(clock)
        return total

    def transfer_s(self, tokens: int) -> float:
        """Time to move the KV cache of `tokens` from one instance to another.

        Every board of the group sends what it holds over its own link.
        """
        if tokens <= 0:
            return 0.0
        share = tokens * self._kv_bytes * self._kv_copies / self.tensor_parallel
        return transfer_s(self.hardware, share)


def _at(cost: Cost, clock: ClockState) -> OperatorTime:
    def first(value: object) -> float:
        return float(np.ravel(np.asarray(value, dtype=float))[0])

    return OperatorTime(
        kind=cost.kind,
        seconds=first(cost.seconds(clock)),
        flops=first(cost.flops),
        bytes=first(cost.bytes),
        compute_s=(first(cost.compute_s) + first(cost.serial_s)) / clock.compute,
        memory_s=first(cost.memory_s) / clock.bandwidth,
    )
