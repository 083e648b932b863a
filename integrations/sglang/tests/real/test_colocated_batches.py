"""The plant's scheduler forms the batches of a real SGLang, one after the other.

What a server's scheduler saw arrive at each of its steps, and when it committed what, is played to
`EngineScheduler`. Every batch has to be the same: requests, their order, tokens of each, tokens in
the KV cache. Exceptions: none but those that `voltana.plant.colocated.scheduler` states.
"""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from batch_replay import replayed, started

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Fleet, Server

ITERATIONS = int(os.environ.get("VOLTANA_TEST_ITERATIONS", "150"))
"""Least iterations of each run: ``VOLTANA_TEST_ITERATIONS=500`` for the long form."""

TIGHT = ("--max-total-tokens", "1100", "--max-running-requests", "24")
ROOMY = ("--max-total-tokens", "4096", "--max-running-requests", "12")
RUNS = {
    "prompts-first": ("--chunked-prefill-size", "64", *TIGHT),
    "mixed": ("--chunked-prefill-size", "96", "--enable-mixed-chunk", *TIGHT),
    "mixed-in-step": (
        "--chunked-prefill-size", "128", "--enable-mixed-chunk", "--disable-overlap-schedule",
        *ROOMY,
    ),
}  # fmt: skip


BURSTS = 12
"""Most bursts of a run: how far admission dares to go, and so when it first retracts, is timing."""


@pytest.mark.parametrize("name", RUNS if ITERATIONS >= 500 else ["mixed"])
def test_the_same_batches(name: str, fleet: Fleet, tmp_path: Path) -> None:
    """The same sequence of batches, over arrivals that fill the KV cache until it retracts."""
    server, log = started(name, ("--disable-radix-cache", *RUNS[name]), fleet, tmp_path)
    least_retractions = 1 if RUNS[name][-len(TIGHT) :] == TIGHT else 0
    draw = random.Random(7)
    for _ in range(BURSTS):
        _burst(server, draw)
        scheduler, _, iterations = replayed(log)
        if iterations >= ITERATIONS and scheduler.retractions >= least_retractions:
            return
    pytest.fail(f"{iterations} iterations, {scheduler.retractions} retractions in {BURSTS} bursts")


def _burst(server: Server, draw: random.Random) -> None:
    """Send 48 requests, which come faster than they are served; each gets all its tokens."""
    with ThreadPoolExecutor(max_workers=48) as pool:
        sent = []
        for _ in range(48):
            tokens = draw.choice([40, 90, 140])
            sent.append(pool.submit(
                server.generate,
                input_ids=[draw.randrange(100, 200) for _ in range(draw.randrange(5, 160))],
                sampling_params={
                    "max_new_tokens": tokens, "min_new_tokens": tokens, "temperature": 0.0
                },
            ))  # fmt: skip
            time.sleep(draw.choice([0.0, 0.0, 0.01, 0.05]))
        for answer in sent:
            assert answer.result()["meta_info"]["completion_tokens"] > 0
