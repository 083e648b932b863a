"""What each request finds in the prefix cache of a real SGLang is what it finds in the plant's.

As `test_colocated_batches`, with the server's prefix cache on, in KV memory that holds some of the
prompts: batches, their order, and the prompt tokens that every request found are the same, while
requests run beside each other, prompts are cut, and what was used longest ago is given up.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from batch_replay import replayed, started
from tests.prefix_oracle import conversations

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Fleet, Server
    from tests.prefix_oracle import Asked

COUNT = 300
ANSWERS = 200
"""Tokens from here on are those of answers, one a request; the tiny model knows 512."""

SHARED_AT_ONCE = 24
MEMORY = ("--max-total-tokens", "3000", "--max-running-requests", "16")
RUNS = {
    "prompts-first": ("--chunked-prefill-size", "256", *MEMORY),
    "mixed": ("--chunked-prefill-size", "192", "--enable-mixed-chunk", *MEMORY),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_same_tokens_are_found(name: str, fleet: Fleet, tmp_path: Path) -> None:
    """Of prompts that share beginnings, token by token, under eviction."""
    server, log = started(f"cache-{name}", RUNS[name], fleet, tmp_path)
    told = _converse(server)
    scheduler, requests, _ = replayed(log)
    assert len(told) == COUNT
    # The server asks itself for a token now and then, to see whether it is well.
    assert {key: requests[key].found for key in told} == told
    found, prompts = sum(told.values()), sum(r.prompt_tokens for r in requests.values())
    assert 0.1 * prompts < found < 0.9 * prompts
    assert prompts - found > 3 * scheduler.options.capacity_tokens  # much was given up


def _converse(server: Server) -> dict[str, int]:
    """Send prompts, some at a time; what the server says that each found, by the request's name.

    No prompt holds an answer, of which no trace tells: every answer has a token of its own.
    """
    draw, told = random.Random(11), {}

    def ask(number: int, tokens: list[int], most: int) -> dict[str, Any]:
        sampling = {
            "max_new_tokens": most, "min_new_tokens": most, "temperature": 0.0,
            "logit_bias": {str(ANSWERS + number): 1000.0},
        }  # fmt: skip
        body = {"rid": f"{number:04d}", "input_ids": tokens, "sampling_params": sampling}
        meta: dict[str, Any] = server.generate(**body)["meta_info"]
        return meta

    asked = [_tokens(one) for one in conversations(5, count=COUNT)]
    with ThreadPoolExecutor(max_workers=SHARED_AT_ONCE) as pool:
        for first in range(0, COUNT, SHARED_AT_ONCE):
            sent = []
            for number, tokens in enumerate(asked[first : first + SHARED_AT_ONCE], first):
                sent.append(pool.submit(ask, number, tokens, draw.choice([1, 8, 40])))
                time.sleep(draw.choice([0.0, 0.0, 0.01, 0.05]))
            for answer in sent:
                meta = answer.result()
                told[meta["id"]] = meta["cached_tokens"]
    return told


def _tokens(asked: Asked) -> list[int]:
    """Blocks as tokens of the tiny model below those of answers."""
    (ids, block), tokens = asked
    return [
        10 + (7919 * ids[at // block] + 31 * (at % block)) % (ANSWERS - 10) for at in range(tokens)
    ]
