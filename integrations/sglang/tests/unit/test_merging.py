"""Log-probabilities of any length in an answer: a client decides how long they are."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import orjson
import pytest
import uvloop
from router_cluster import cluster

from voltana.serving.router import helper_process
from voltana.serving.router.problem import LONGEST_ERROR, Problem
from voltana_sglang.dialect import merging
from voltana_sglang.dialect.errors import error_in_whole
from voltana_sglang.dialect.logprobs import merge_answers
from voltana_sglang.dialect.merging import AT_ONCE, IN_A_STREAM, Merging, check_stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DECODE = orjson.dumps({"text": "x", "meta_info": {"input_token_logprobs": [], "id": "a"}})


def run(check: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(120.0):
            await check()

    asyncio.run(limited())


def answer_of(bytes_least: int) -> bytes:
    count = bytes_least // 30 + 1
    known = [[-1.2345678901234567, 12345, "abort"] for _ in range(count)]
    return orjson.dumps({"meta_info": {"input_token_logprobs": known}})


def test_long_ones_are_merged_as_short_ones_are() -> None:
    async def check() -> None:
        line = Merging()
        prefill = answer_of(AT_ONCE)
        both = await asyncio.gather(*(line.merged(prefill, DECODE) for _ in range(2)))
        assert both == [merge_answers(prefill, DECODE)] * 2
        assert await line.merged(b"nonsense" * AT_ONCE, DECODE) == DECODE

    run(check)


def test_megabytes_of_them_hold_up_nobody() -> None:
    prefill = answer_of(3_000_000)
    began_s = time.thread_time()
    expected = merge_answers(prefill, DECODE)
    there_s = time.thread_time() - began_s

    async def check() -> None:
        began_s = time.thread_time()
        assert await Merging().merged(prefill, DECODE) == expected
        assert time.thread_time() - began_s < there_s

        longest_s = 0.0
        merged = asyncio.create_task(Merging().merged(prefill, DECODE))
        while not merged.done():
            began_s = time.thread_time()
            await asyncio.sleep(0.001)
            longest_s = max(longest_s, time.thread_time() - began_s)
        assert longest_s < there_s / 3
        assert await merged == expected

    run(check)


def test_who_leaves_meanwhile_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    start = asyncio.create_subprocess_exec

    async def noted(*arguments: object, **options: object) -> object:
        made.append(await start(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    async def check() -> None:
        line, prefill = Merging(), answer_of(2_000_000)
        asked = asyncio.create_task(line.merged(prefill, DECODE))
        while not made:
            await asyncio.sleep(0.001)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert await made[0].wait() != 0
        assert await line.merged(prefill, DECODE) == merge_answers(prefill, DECODE)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    run(check)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_process_that_dies_costs_its_own_request_alone(
    monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    start = helper_process.start

    async def check() -> None:
        line, prefill = Merging(), answer_of(2_000_000)
        for module in ("voltana_sglang.no_such_module", "voltana_sglang"):
            monkeypatch.setattr(helper_process, "start", lambda _, at=module: start(at))
            with pytest.raises(Problem, match="Ask for fewer") as caught:
                await line.merged(prefill, DECODE)
            assert caught.value.status == 413
        monkeypatch.setattr(helper_process, "start", start)
        assert await line.merged(prefill, DECODE) == merge_answers(prefill, DECODE)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(check())


def test_a_stream_whose_every_event_would_carry_them_is_refused_with_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(Problem, match=f"must be at most {IN_A_STREAM} in a stream"):
        check_stream(answer_of(IN_A_STREAM))
    check_stream(answer_of(1000))
    monkeypatch.setattr(merging, "IN_A_STREAM", 10)

    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            body = {"text": "a", "return_logprob": True, "stream": True}
            status, answer, _ = await pd.post("/generate", body)
            assert status == 400
            assert answer["error"]["code"] == "logprobs_too_long"
            await pd.quiet()

    run(check)


def test_no_error_is_looked_for_in_what_is_too_long_to_be_one() -> None:
    """A prompt with the word makes the hint stand in its log-probabilities."""
    assert error_in_whole("x", answer_of(LONGEST_ERROR)) is None
    assert error_in_whole("x", b'{"error": {"message": "broken"}}') is not None
