"""Measured iterations from the rings that a server's plugin writes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.predictors.profile import Stack
from voltana.serving.profile.run import Iteration, ProfileRunError
from voltana.serving.ring_reader import RingReader, find_rings
from voltana_ring.layout import Flag, Kind

if TYPE_CHECKING:
    from pathlib import Path


class RingIterations:
    """Iterations of one server with one scheduler; a context manager.

    Args:
        folder: Where rings are (``agent.rings`` of the configuration).
        instance: Name of the instance.

    Raises:
        ProfileRunError: If there is not exactly one ring of a living engine.
    """

    def __init__(self, folder: Path, instance: str) -> None:
        living: list[RingReader] = []
        for path in find_rings(folder, instance):
            reader = RingReader(path)
            if reader.replaced():
                reader.close()
            else:
                living.append(reader)
        if len(living) != 1:
            for reader in living:
                reader.close()
            raise ProfileRunError(
                f"{len(living)} rings of instance {instance!r} in {folder}: must be one. "
                "Start the server with the plugin configured (VOLTANA_SGLANG_CONFIG and "
                "VOLTANA_SGLANG_INSTANCE, or VOLTANA_VLLM_...), and without data or pipeline "
                "parallelism."
            )
        self._reader = living[0]

    def __enter__(self) -> RingIterations:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def stack(self, hardware: str | None) -> Stack:
        """What is measured, in the words that the agent compares it with."""
        info = self._reader.info
        return Stack(
            hardware=hardware or "unknown",
            model=str(info.get("model") or "unknown"),
            tensor_parallel=max(1, int(info.get("tp_size", 1))),
            engine=str(info.get("engine") or "sglang"),
            engine_version=str(info.get("version") or "unknown"),
        )

    def drain(self) -> list[Iteration]:
        """Iterations that finished since the last call."""
        return [
            Iteration(record.load, record.latency_s)
            for record in self._reader.drain()
            if record.kind is Kind.FINISHED
            and not record.flags & Flag.SPECULATIVE
            and math.isfinite(record.latency_s)
        ]
