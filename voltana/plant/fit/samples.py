"""What the plant says to many measured iterations at once; formulas are the plant's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana.plant.cost import ClockState
from voltana.plant.power import LAUNCH, PowerModel
from voltana.plant.weight_formats import weight_format
from voltana.values import attended_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.plant.cost import Cost
    from voltana.plant.fit.measurements import Measurement
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.latency import LatencyModel
    from voltana.plant.model import ModelProfile
    from voltana.values import FloatArray


def power_model(board: HardwareProfile, model: ModelProfile) -> PowerModel:
    """Power of a board that serves a model."""
    return PowerModel(board, weight_format(model.layer_dtype).arithmetic)


class Work(NamedTuple):
    """One kind of operator in many iterations, as arrays over the rows."""

    kind: str
    seconds: FloatArray
    flops: FloatArray
    moved_bytes: FloatArray


class Samples:
    """Iterations whose costs are asked for together.

    Args:
        rows: The measurements, none of an idle board.
    """

    def __init__(self, rows: Sequence[Measurement]) -> None:
        self.rows = tuple(rows)
        decode = np.array([row.phase == "decode" for row in rows], dtype=bool)
        batch = np.array([row.batch for row in rows], dtype=float)
        context = np.array([row.context for row in rows], dtype=float)
        self.clock_mhz = np.array([row.clock_mhz for row in rows], dtype=float)
        self.latency_s = np.array([row.latency_s for row in rows], dtype=float)
        self.power_w = np.array([row.power_w for row in rows], dtype=float)
        self._decode = decode
        self._requests = np.where(decode, batch, 0.0)
        self._cached = np.where(decode, batch * context, 0.0)
        self._new = np.where(decode, 0.0, batch * context)
        pairs = np.array([attended_pairs(row.context, 0) for row in rows], dtype=float)
        self._pairs = np.where(decode, 0.0, batch * pairs)

    def __len__(self) -> int:
        return len(self.rows)

    def costs(self, latency: LatencyModel) -> tuple[Cost, ...]:
        """Costs whose arrays run over the rows; as `LatencyModel.costs` of each."""
        padded = np.array([latency.padded_batch(int(n)) for n in self._requests], dtype=float)
        tokens = np.where(self._decode, padded, self._new)
        heads = np.where(self._decode, padded, 1.0)
        parts = [
            *latency.token_costs(tokens),
            latency.head_cost(heads),
            latency.prefill_attention_cost(self._new, self._pairs),
            latency.decode_attention_cost(self._requests, self._cached),
        ]
        if latency.window is not None:
            pairs = np.minimum(self._pairs, self._new * latency.window)
            cached = np.minimum(self._cached, self._requests * latency.window)
            parts += [
                latency.prefill_attention_cost(self._new, pairs, local=True),
                latency.decode_attention_cost(self._requests, cached, local=True),
            ]
        return tuple(parts)

    def seconds(self, latency: LatencyModel) -> FloatArray:
        """Latency of each row at its clock, in s."""
        state = self._state(latency)
        return np.asarray(sum(np.asarray(c.seconds(state)) for c in self.costs(latency)))

    def work(self, latency: LatencyModel) -> tuple[Work, ...]:
        """What the rows compute, kind by kind, and how long each takes at the rows' clocks."""
        state = self._state(latency)
        return tuple(
            Work(
                kind=cost.kind,
                seconds=np.asarray(cost.seconds(state)),
                flops=np.asarray(cost.flops),
                moved_bytes=np.asarray(cost.bytes),
            )
            for cost in self.costs(latency)
        )

    def watts(self, work: Sequence[Work], power: PowerModel) -> FloatArray:
        """Power of a board at each row's clock, in W, as if there were no power limit."""
        clocks, index = np.unique(self.clock_mhz, return_inverse=True)
        table = np.array([power.at(float(mhz)) for mhz in clocks]).reshape(-1, 4)[index]
        _, waiting_w, running_w, core_share = table.T
        total_s, energy_j = np.zeros(len(self)), np.zeros(len(self))
        for part in work:
            core_j, fixed_j = power.operation_j(part.kind, part.flops, part.moved_bytes)
            board_w = waiting_w if part.kind == LAUNCH else running_w
            energy_j += core_share * core_j + fixed_j + part.seconds * board_w
            total_s += part.seconds
        return np.asarray(energy_j / total_s)

    def _state(self, latency: LatencyModel) -> ClockState:
        hardware = latency.hardware
        curve = hardware.bandwidth
        return ClockState(
            compute=self.clock_mhz / hardware.max_clock_mhz,  # type: ignore[arg-type]
            bandwidth=np.interp(self.clock_mhz, curve.clocks_mhz, curve.share),
        )
