"""An agent reads batches that repeat the one before, for which no bell rings, when they are due."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any

from tests.attack import test_admin_agent
from tests.attack.test_admin_agent import serving
from voltana.serving.agent import service
from voltana_ring.layout import BODY, RUN, Kind
from voltana_ring.writer import RingWriter

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

FACTS = {
    "version": "0.32.0", "role": "decode", "model": "tiny", "tp_size": 1,
    "kv_capacity_tokens": 200_000, "max_running_requests": 32, "max_prefill_tokens": 4096,
}  # fmt: skip
PAIRS, PERIOD_S = 30, 0.01


def test_pairs_are_read_without_a_bell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor by the agent's own round, which comes but once here."""
    monkeypatch.setattr(service, "HEARTBEAT_S", 1000.0)
    folder = tmp_path / "rings"
    folder.mkdir(mode=0o700)
    writer = RingWriter(folder / "decode-0@dp0.pp0.tp0.ring", folder / "decode-0.bell", FACTS)

    def body(kind: Kind, number: int, at_s: float, *times_s: float) -> bytes:
        load = 0, 0.0, 4, 2000 + 4 * number
        return BODY.pack(kind, 2, 0, 0, 0, number, at_s, *load, 0, 0, math.nan, *times_s)

    async def check() -> None:
        async with serving(tmp_path) as it:
            group: Any = it.agent.group
            async with asyncio.timeout(60):
                while not group._served:
                    await asyncio.sleep(0.01)
            (served,) = group._served.values()
            ready_s = time.monotonic()
            launch_s = ready_s + 1e-4
            first, full = writer.begin_run(
                body(Kind.FINISHED, 1, ready_s, ready_s - PERIOD_S, ready_s, PERIOD_S)
                + body(Kind.LAUNCHED, 2, launch_s, launch_s, math.nan, math.nan)
                + RUN.pack(Kind.RUN, 2, launch_s, ready_s)
            )
            assert full - first >= 2 * PAIRS
            writer.ring()
            reads = 0
            for at in range(first, first + 2 * PAIRS, 2):
                await asyncio.sleep(PERIOD_S)
                position = served.reader.position
                writer.times[at] = now_s = time.monotonic()
                writer.times[at + 1] = now_s
                async with asyncio.timeout(60):
                    while served.reader.position == position:
                        await asyncio.sleep(0)
                reads += 1
            assert reads == PAIRS
            assert served.ring_loop.state.kv_tokens == 2000 + 4 * (2 + PAIRS)
            writer.end_run(PAIRS)

    try:
        test_admin_agent.run(check)
    finally:
        writer.close()
