"""Faults of servers and clients: each accepted request completes or ends in a clear error."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from router_answers import ask, completed, has_error, run
from router_cluster import cluster, until

from tests.serving.router_client import events_of
from voltana.serving.router import answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("who", ["prefill-0", "decode-0"])
@pytest.mark.parametrize("fault", ["500", "503", "reset"])
def test_what_fails_before_the_first_byte_is_repeated_on_another_pair(
    fault: str, who: str, stream: bool
) -> None:
    async def check() -> None:
        async with cluster(prefill=2, decode=2) as pd:
            pd.servers[who].faults.append(fault)
            assert completed(await ask(pd, stream=stream), stream=stream)
            rooms = [b["bootstrap_room"] for s in pd.servers.values() for b in s.seen]
            assert len(set(rooms)) == 2
            assert pd.complaints == []
            await pd.quiet()
            metrics = (await pd.ask_admin("GET", "/metrics"))[1]
            assert f'voltana_router_retries_total{{backend="{who}"}} 1.0' in metrics

    run(check)


@pytest.mark.parametrize("stream", [False, True])
def test_one_failure_is_survived_even_by_a_single_pair(stream: bool) -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            pd.servers["decode-0"].faults.append("reset")
            assert completed(await ask(pd, stream=stream), stream=stream)

    run(check)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_not_lost_with_a_prefill_answer_that_breaks_off(
    stream: bool,
) -> None:
    async def check() -> None:
        async with cluster(prefill=2, decode=1) as pd:
            pd.servers["prefill-0"].token_s = 0.02  # breaks off when the tokens are there already
            pd.servers["prefill-0"].faults.append("reset-mid")
            body = {"text": "a", "return_logprob": True, "stream": stream}
            _, answer, _ = await pd.post("/generate", body)
            for part in answer[:-1] if stream else [answer]:
                assert len(part["meta_info"]["input_token_logprobs"]) == 3
            assert len(pd.servers["prefill-1"].seen) == 1
            await pd.quiet()

    run(check)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["refused", "refused-met"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"text": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
def test_a_prompt_that_the_prefill_server_refuses_ends_with_its_words_at_once(
    path: str, body: dict[str, Any], fault: str, stream: bool
) -> None:
    """Whatever the decode server makes of it: its KV cache was never filled."""

    async def check() -> None:
        async with cluster(prefill=2, decode=1) as pd:
            pd.servers["decode-0"].gate.close()
            pd.servers["prefill-0"].faults.append(fault)
            status, answer, _ = await pd.post(path, body | {"stream": stream})
            assert status == 400
            assert "longer than the limit" in json.dumps(answer)
            assert has_error(answer)
            assert pd.servers["prefill-1"].seen == []
            await pd.quiet()

    run(check)


def test_a_refusal_that_comes_after_the_first_token_ends_the_stream_with_an_error() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            prefill = pd.servers["prefill-0"]
            prefill.gate.close()
            pd.servers["decode-0"].gate.close(after=1)
            prefill.faults.append("refused-met")
            body = {"text": "a", "stream": True}
            async with pd.client.post(pd.url + "/generate", json=body) as reply:
                begin = await reply.content.readany()
                prefill.gate.open()
                events = events_of(begin + await reply.read())
            assert not completed((reply.status, events, None), stream=True)
            assert "longer than the limit" in events[-2]["error"]["message"]
            await pd.quiet()
            assert len(prefill.seen) == 1

    run(check)


def test_an_error_in_the_first_event_counts_as_before_the_first_byte() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=2) as pd:
            pd.servers["decode-0"].faults.append("sse-error")
            assert completed(await ask(pd, stream=True), stream=True)
            assert len(pd.servers["decode-1"].seen) == 1

    run(check)


@pytest.mark.parametrize("stream", [False, True])
def test_failing_every_time_ends_with_the_server_s_words(stream: bool) -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=2) as pd:
            for name in ("decode-0", "decode-1"):
                pd.servers[name].always = "500"
            status, body, _ = await ask(pd, stream=stream)
            assert status == 500
            assert body["message"].endswith("was told to fail")
            assert sum(len(s.seen) for n, s in pd.servers.items() if "decode" in n) == 3
            await pd.quiet()

    run(check)


@pytest.mark.parametrize("fault", ["reset-mid", "cut"])
def test_a_stream_that_breaks_off_ends_with_an_error_event_and_is_not_repeated(fault: str) -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=2) as pd:
            pd.servers["decode-0"].faults.append(fault)
            answer = await ask(pd, stream=True)
            assert not completed(answer, stream=True)
            assert answer[1][-2]["error"]["code"] == "backend_broken_off"
            assert answer[1][1]["text"]
            assert pd.servers["decode-1"].seen == []
            await pd.quiet()

    run(check)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("who", ["prefill-0", "decode-0"])
def test_a_server_that_hangs_is_given_up_after_the_first_token_limit(
    who: str, stream: bool
) -> None:
    async def check() -> None:
        async with cluster(prefill=2, decode=2, first_token_timeout_s=0.3) as pd:
            pd.servers[who].faults.append("hang")
            assert completed(await ask(pd, stream=stream), stream=stream)
            await pd.quiet()

    run(check)


@pytest.mark.parametrize("counts", [{"prefill": 1, "decode": 1}, {"unified": 1}])
def test_a_long_whole_answer_is_not_taken_for_a_hanging_server(counts: dict[str, int]) -> None:
    async def check() -> None:
        async with cluster(**counts, first_token_timeout_s=1.5) as pd:
            *_, last = pd.servers.values()
            last.token_s = 0.2  # 1.6 s for the answer
            assert completed(await ask(pd), stream=False)
            assert len(last.seen) == 1

    run(check)


@pytest.mark.parametrize("stream", [False, True])
def test_the_deadline_ends_a_request_with_a_clear_error(stream: bool) -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1, timeout_s=1.5) as pd:
            pd.servers["decode-0"].gate.close(after=int(stream))
            answer = await ask(pd, stream=stream)
            assert not completed(answer, stream=stream)
            error = answer[1][-2]["error"] if stream else answer[1]["error"]
            assert error["code"] == "timeout"
            assert "1.5 s" in error["message"]
            await pd.quiet()
            await until(lambda: pd.servers["decode-0"].aborted)
            rid = pd.servers["decode-0"].seen[0]["rid"]
            assert pd.servers["decode-0"].aborted == {rid}

    run(check)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_takes_both_legs_with_it(stream: bool) -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            decode = pd.servers["decode-0"]
            decode.gate.close()
            task = asyncio.create_task(ask(pd, stream=stream))
            await until(lambda: decode.gate.waiting)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await pd.quiet()
            await until(lambda: decode.cancelled and decode.aborted)
            assert decode.aborted == {decode.seen[0]["rid"]}
            metrics = (await pd.ask_admin("GET", "/metrics"))[1]
            assert 'outcome="cancelled"} 1.0' in metrics

    run(check)


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "LAST_WORDS_S", 0.2)

    async def check() -> None:
        async with cluster(prefill=1, decode=1, timeout_s=0.5) as pd:
            pd.servers["decode-0"].padding = 8_000_000
            _, writer = await asyncio.open_connection("127.0.0.1", pd.service.port)
            body = b'{"text": "a", "stream": true}'
            head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(head.encode() + body)
            await until(lambda: pd.servers["decode-0"].seen)  # it may have ended since
            await pd.quiet()
            metrics = (await pd.ask_admin("GET", "/metrics"))[1]
            assert 'outcome="timeout"} 1.0' in metrics
            writer.close()

    run(check)


def test_prompts_of_a_batch_are_aborted_by_their_own_ids() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            decode = pd.servers["decode-0"]
            decode.gate.close()
            body = {"text": ["a", "b"], "rid": "mine"}
            task = asyncio.create_task(pd.post("/generate", body))
            await until(lambda: decode.gate.waiting)
            task.cancel()
            await pd.quiet()
            await until(lambda: len(decode.aborted) == 2)
            own = decode.seen[0]["rid"]
            assert decode.aborted == {f"{own}_0", f"{own}_1"}

    run(check)


def test_a_second_signal_ends_open_requests_at_once() -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        async with cluster(prefill=1, decode=1, timeout_s=60.0, drain_timeout_s=60.0) as pd:
            pd.servers["decode-0"].gate.close()
            # A connection of its own, for that of `pd.client` is closed before the router is.
            _, writer = await asyncio.open_connection("127.0.0.1", pd.service.port)
            body = b'{"text": "a", "stream": true}'
            head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await until(lambda: pd.servers["decode-0"].seen)
            draining = asyncio.create_task(pd.service.drain())
            await until(lambda: pd.service.forwarder.draining)
            draining.cancel()  # what the second signal does
            await asyncio.gather(draining, return_exceptions=True)
            began_s = loop.time()
        assert loop.time() - began_s < 25.0  # a minute, if the HTTP server may wait as it likes
        writer.close()

    run(check)


@pytest.mark.parametrize(
    "body", [{"text": ["a", "b"], "rid": ["x", "y"]}, {"text": "a", "rid": "x"}]
)
def test_a_repetition_has_other_ids_so_that_the_abort_of_the_first_try_spares_it(
    body: dict[str, Any],
) -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=2) as pd:
            for name in ("decode-0", "decode-1"):
                pd.servers[name].faults.append("503")
            status, _, _ = await pd.post("/generate", body)
            assert status == 200
            prefill = pd.servers["prefill-0"]
            tries = [seen["rid"] for seen in prefill.seen]
            assert len(tries) == 3
            told = [ids_of(rid, body["text"]) for rid in tries]
            await until(lambda: prefill.aborted >= set(told[0]) | set(told[1]))
            # SGLang aborts whatever begins with the id that it is told.
            for rid in told[2]:
                assert not [other for other in prefill.aborted if rid.startswith(other)]

    run(check)


def ids_of(rid: str, text: Any) -> list[str]:
    """As SGLang names the prompts of a batch that has one id."""
    return [f"{rid}_{i}" for i in range(len(text))] if isinstance(text, list) else [rid]
