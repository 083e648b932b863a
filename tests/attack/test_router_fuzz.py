"""A million bodies that nobody would write: each is read or refused, and nothing else happens."""

from __future__ import annotations

import json
import random
import zlib
from typing import Any

import pytest

from voltana.serving.router.problem import Problem
from voltana.serving.router.reading import understood
from voltana_sglang.dialect.call import Bootstrap
from voltana_sglang.dialect.engine import SglangEngine
from voltana_sglang.dialect.errors import error_in, error_in_whole
from voltana_sglang.dialect.settings import SglangRouterTable

PATHS = ("/generate", "/v1/completions", "/v1/chat/completions")
MOST = 64

NAMES = (
    "text", "prompt", "input_ids", "input_embeds", "image_data", "messages", "tools", "rid", "n",
    "stream", "sampling_params", "return_logprob", "bootstrap_room", "content", "tool_calls",
    "function", "arguments", "type", "image_url", "audio_data",
)  # fmt: skip

LEAVES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 1.5, 1e308, -0.0, "",
    "a", "é", "\x00", "\ud800", "x" * 300, "2", "1e9", "[", '"', float("nan"), float("inf"),
)  # fmt: skip

GRAINS = (b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\u", b"1e400", b"\xff", b"\x00", b"-")


def value(chance: random.Random, depth: int) -> Any:
    kind = chance.random()
    if depth <= 0 or kind < 0.4:
        return chance.choice(LEAVES)
    if kind < 0.7:
        return [value(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {chance.choice(NAMES): value(chance, depth - 1) for _ in range(chance.randrange(4))}


def body(chance: random.Random) -> bytes:
    fields = {chance.choice(NAMES): value(chance, 4) for _ in range(chance.randrange(5))}
    raw = json.dumps(fields).encode("utf-8", "surrogatepass")
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        at = chance.randrange(len(raw) + 1)
        raw = raw[:at] + chance.choice(GRAINS) + raw[at + chance.randrange(3) :]
    return raw


def check(engine: SglangEngine, path: str, raw: bytes) -> bool:
    """Whether a body is taken; every other end than a refusal of status 400 is a fault."""
    try:
        call = understood(engine, path, raw, MOST)
    except Problem as problem:
        if problem.status != 400:
            raise
        return False
    sent = call.leg_body(0, Bootstrap.draw("h", 1, call.batch))
    assert isinstance(sent, bytes)
    told = json.loads(sent)
    assert told["rid"] == call.rid
    assert told["bootstrap_host"] == (["h"] * call.batch if call.batch else "h")
    assert sent.count(b'"rid"') >= 1
    assert call.size.text_bytes >= 0
    assert len(call.leg_rids(1)) == (call.batch or 1)
    call.named(b'data: {"id": "' + call.rid.encode() + b'_7"}')
    return True


def fuzz(seed: int, count: int) -> None:
    engine = SglangEngine(SglangRouterTable())
    chance, taken = random.Random(seed), 0
    for number in range(count):
        raw = body(chance)
        taken += check(engine, PATHS[number % 3], raw)
        if number % 8 == 0:
            error_in("s", b"data: " + raw)
            error_in_whole("s", raw)
    assert count / 20 < taken < count  # both kinds are met


def test_odd_bodies_are_read_or_refused() -> None:
    fuzz(0, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_million_odd_bodies_are_read_or_refused(part: int) -> None:
    fuzz(zlib.crc32(b"bodies") + part, 125_000)
