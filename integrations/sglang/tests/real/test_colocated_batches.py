"""The plant's scheduler forms the batches of a real SGLang, one after the other.

What a server's scheduler saw arrive at each of its steps, and when it committed what, is played to
`EngineScheduler`. Every batch has to be the same: requests, their order, tokens of each, tokens in
the KV cache. Exceptions: none but those that `voltana.plant.colocated.scheduler` states.
"""

from __future__ import annotations

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import batch_log
from servers import Server, ServerSpec
from voltana.plant.colocated.request import EngineRequest
from voltana.plant.colocated.scheduler import EngineScheduler, SchedulerOptions

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Fleet

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


@pytest.mark.parametrize("name", RUNS if ITERATIONS >= 500 else ["mixed"])
def test_the_same_batches(name: str, fleet: Fleet, tmp_path: Path) -> None:
    """The same sequence of batches, over arrivals that fill the KV cache until it retracts."""
    log = tmp_path / "batches.jsonl"
    batch_log.install(tmp_path / "plugin")
    here = os.path.dirname(batch_log.__file__)  # noqa: PTH120
    path = os.pathsep.join([str(tmp_path / "plugin"), here, os.environ.get("PYTHONPATH", "")])
    spec = ServerSpec(
        name=f"batches-{name}",
        environment=((batch_log.VARIABLE, str(log)), ("PYTHONPATH", path)),
        arguments=("--disable-radix-cache", *RUNS[name]),
    )
    _load(fleet.get(spec)[0], log)
    scheduler, iterations = replayed([json.loads(line) for line in log.read_text().splitlines()])
    assert iterations >= ITERATIONS
    if RUNS[name][-len(TIGHT) :] == TIGHT:
        assert scheduler.retractions > 0


def _load(server: Server, log: Path) -> None:
    """Send bursts until there have been enough iterations; every request gets all its tokens."""
    draw = random.Random(7)
    while log.read_text().count('["step", [') < ITERATIONS:
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


def replayed(events: list[list[Any]]) -> tuple[EngineScheduler, int]:
    """Play what a server saw; its batches are compared one by one."""
    (_, options), *events = events
    scheduler = EngineScheduler(SchedulerOptions(**options))
    iterations = 0
    for event in events:
        if event[0] == "arrived":
            _, rid, prompt, most = event
            scheduler.add(EngineRequest(rid, prompt, most))
        elif event[0] == "commit":
            scheduler.commit()
        else:
            batch = scheduler.schedule()
            formed = None
            if batch is not None:
                iterations += 1
                in_cache = sum(r.cached for r in batch.requests)
                chunks = [[c.request.key, c.new_tokens] for c in batch.chunks]
                formed = [chunks, [r.key for r in batch.decode], in_cache]
            assert formed == event[1], f"iteration {iterations}"
    return scheduler, iterations
