"""The router between vLLM's prefill and decode servers, one leg after the other."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re

import pytest
from fake_servers import ASKED, METRICS, vllm_cluster

from tests.serving.late_servers import words_of
from tests.serving.router_client import until
from voltana.values import InstanceState
from voltana_vllm.dialect.call import parse_call
from voltana_vllm.dialect.loads import state_of
from voltana_vllm.dialect.unpaired import lacking

STREAMS = pytest.mark.parametrize("stream", [False, True])
ID = re.compile(r"voltana-[0-9a-f]{32}")


def run(body):
    async def limited():
        async with asyncio.timeout(60):
            await body()

    asyncio.run(limited())


def texts(answer, *, stream):
    status, body, _ = answer
    assert status == 200, body
    if stream:
        assert body[-1] == "[DONE]"
        return [event["choices"][0]["text"] for event in body[:-1]]
    return body["choices"][0]["text"].split()


async def tidy(pd):
    """Nothing is in flight, no cache is kept for nobody, and no server had a reason to complain."""
    await pd.quiet()
    await until(lambda: not pd.kept)
    assert pd.complaints == []


BODIES = [
    (
        "/v1/completions",
        {"prompt": "a", "max_tokens": 6, "stream_options": {"include_usage": True}},
    ),
    ("/v1/completions", {"prompt": [97], "max_tokens": 6, "min_tokens": 4, "n": 1}),
    (
        "/v1/completions",
        {"prompt": "a", "stop": "z", "stop_token_ids": [7], "ignore_eos": False, "logprobs": 1},
    ),
    ("/v1/completions", {"prompt": "a", "echo": True, "use_beam_search": False}),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 6},
    ),
]


@STREAMS
@pytest.mark.parametrize(("path", "body"), BODIES)
def test_answers_are_those_of_a_unified_server(path, body, stream):
    async def check():
        async with vllm_cluster(prefill=1, decode=1) as pd, vllm_cluster(unified=1) as one:
            for made in (pd, one):
                answer = await made.post(path, body | {"stream": stream, "model": "tiny"})
                assert texts(answer, stream=stream) == words_of("a")
            (first,), (second,) = pd.servers["prefill-0"].seen, pd.servers["decode-0"].seen
            (alone,) = one.servers["unified-0"].seen
            assert first["kv_transfer_params"] == ASKED
            assert second["kv_transfer_params"]["remote_engine_id"] == "prefill-0"
            assert {k: second[k] for k in second if k != "kv_transfer_params"} == alone
            assert alone == body | {"stream": stream, "model": "tiny"}
            # Both legs have one id, which is none of the client's.
            assert pd.servers["prefill-0"].ids == pd.servers["decode-0"].ids
            assert ID.fullmatch(pd.servers["prefill-0"].ids[0])
            await tidy(pd)

    run(check)


@STREAMS
def test_the_decode_server_is_chosen_when_the_prefill_is_done(stream):
    async def check():
        async with vllm_cluster(prefill=1, decode=2) as pd:
            prefill, second = pd.servers["prefill-0"], pd.servers["decode-1"]
            prefill.gate.close()
            asked = asyncio.create_task(pd.ask(stream=stream))
            await until(lambda: prefill.gate.waiting)
            pd.service.pool.named("decode-0").draining = True  # the first in line, until now
            prefill.gate.open()
            assert texts(await asked, stream=stream) == words_of("a")
            assert len(second.seen) == 1
            await tidy(pd)

    run(check)


@STREAMS
@pytest.mark.parametrize("who", ["prefill-0", "decode-0"])
@pytest.mark.parametrize("fault", ["500", "503"])
def test_what_fails_before_the_first_byte_is_prefilled_again_on_another_pair(who, fault, stream):
    async def check():
        async with vllm_cluster(prefill=2, decode=2) as pd:
            pd.servers[who].faults.append(fault)
            assert texts(await pd.ask(stream=stream), stream=stream) == words_of("a")
            ids = [rid for server in pd.servers.values() for rid in server.ids]
            assert len(set(ids)) == 2  # each try has an id of its own
            if who == "prefill-0":
                await tidy(pd)

    run(check)


def test_an_error_in_the_first_event_is_repeated_and_a_later_break_is_told():
    async def check():
        async with vllm_cluster(prefill=1, decode=2) as pd:
            pd.servers["decode-0"].faults.append("error-event")
            assert texts(await pd.ask(stream=True), stream=True) == words_of("a")
            pd.servers["decode-0"].faults.append("reset-mid")
            pd.service.pool.named("decode-1").draining = True
            status, events, _ = await pd.ask(stream=True)
            assert status == 200
            assert events[-1] == "[DONE]"
            assert events[-2]["error"]["code"] == "backend_broken_off"
            await tidy(pd)

    run(check)


def test_a_kv_cache_that_nobody_fetches_is_given_up_at_once():
    """The client leaves while its request is held, or every decode server is gone by then."""

    async def check():
        async with vllm_cluster(prefill=1, decode=1) as pd:
            prefill = pd.servers["prefill-0"]
            prefill.gate.close()
            asked = asyncio.create_task(pd.ask())
            await until(lambda: prefill.gate.waiting)
            pd.service.pool.named("decode-0").draining = True
            prefill.gate.open()
            status, body, _ = await asked
            assert status == 503, body
            await tidy(pd)
            assert pd.servers["decode-0"].seen == []

    run(check)


@STREAMS
def test_a_client_that_leaves_takes_the_leg_with_it(stream):
    async def check():
        async with vllm_cluster(prefill=1, decode=1) as pd:
            for who in ("prefill-0", "decode-0"):
                server = pd.servers[who]
                server.gate.close()
                asked = asyncio.create_task(pd.ask(stream=stream))
                await until(lambda: server.gate.waiting)  # noqa: B023
                asked.cancel()
                await until(lambda: server.cancelled == 1)  # noqa: B023
                server.gate.open()
                await pd.quiet()
            await tidy(pd)

    run(check)


def test_a_decode_server_that_is_gone_costs_a_prefill_and_the_cache_is_given_up():
    async def check():
        async with vllm_cluster(prefill=1, decode=2, health_period_s=60.0) as pd:
            await pd.servers["decode-0"].stop()
            assert texts(await pd.ask(), stream=False) == words_of("a")
            assert len(pd.servers["prefill-0"].seen) == 2
            await tidy(pd)

    run(check)


def test_a_prefill_server_that_hands_over_nothing_is_named():
    async def check():
        async with vllm_cluster(prefill=1, decode=1, attempts=1) as pd:
            pd.servers["prefill-0"].transfers = False
            status, body, _ = await pd.ask()
            assert status == 502
            assert "must be started with --kv-transfer-config" in body["error"]["message"]
            await tidy(pd)

    run(check)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"prompt": ["a", "b"]}, "2 prompts in one request are not allowed here: must be one"),
        ({"n": 2}, "n or best_of = 2 is not allowed here: must be 1"),
        ({"best_of": "3"}, "n or best_of = 3 is not allowed here"),
        ({"use_beam_search": True}, "use_beam_search = true is not allowed here: must be left out"),
        ({"prompt_logprobs": 0}, "prompt_logprobs = 0 is not allowed here"),
        ({"echo": True, "logprobs": 0}, "echo with logprobs = 0 is not allowed here"),
    ],
)
def test_what_a_pair_cannot_answer_is_refused_and_a_unified_server_answers(more, said):
    async def check():
        async with vllm_cluster(prefill=1, decode=1) as pd, vllm_cluster(unified=1) as one:
            status, body, _ = await pd.ask(**more)
            assert (status, said in body["error"]["message"]) == (400, True)
            assert pd.servers["prefill-0"].seen == []
            if "prompt" not in more:
                assert (await one.ask(**more))[0] == 200

    run(check)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"use_beam_search": "yes"}, "use_beam_search = true"),
        ({"use_beam_search": "0", "prompt_logprobs": None, "logprobs": 3}, ""),
        ({"prompt_logprobs": "x" * 99}, "prompt_logprobs = 'xxxxxxxxxxxxxxxxxxx"),
        ({"echo": 1, "logprobs": True}, "echo with logprobs = True"),
        ({"echo": "off", "logprobs": 1}, ""),
        ({"echo": True, "top_logprobs": 2}, ""),
        ({"messages": [], "echo": True}, "echo with top_logprobs = 0"),
        ({"messages": [], "echo": True, "top_logprobs": None}, ""),
        ({"messages": [], "logprobs": True, "top_logprobs": 2}, ""),
    ],
)
def test_what_only_a_server_of_both_phases_answers_rightly_is_seen(body, found):
    assert lacking(body, chat="messages" in body) == found


def test_what_no_prefill_server_hands_over_ejects_none_of_them():
    """A request may be at fault, and a client that sends it again and again."""

    async def check():
        async with vllm_cluster(prefill=3, decode=1, eject_after=2) as pd:
            for number in range(3):
                pd.servers[f"prefill-{number}"].transfers = False
            for _ in range(8):
                assert (await pd.ask())[0] == 502
            assert all(pd.service.pool.named(f"prefill-{n}").ejections == 0 for n in range(3))
            await tidy(pd)

    run(check)


def test_a_client_cannot_say_from_where_a_server_fetches():
    evil = {"do_remote_prefill": True, "remote_engine_id": "x", "remote_host": "10.0.0.1"}
    body = {
        "kv_transfer_params": evil, "ec_transfer_params": evil, "request_id": "theirs",
        "vllm_xargs": {"kv_transfer_params": evil, "other": 1},
    }  # fmt: skip

    async def check():
        async with vllm_cluster(unified=1) as one:
            assert (await one.ask(**body))[0] == 200
            (seen,) = one.servers["unified-0"].seen
            assert seen["vllm_xargs"] == {"other": 1}
            assert not {"kv_transfer_params", "ec_transfer_params", "request_id"} & set(seen)
            assert one.complaints == []

    run(check)


@STREAMS
def test_an_answer_has_the_clients_own_id_and_servers_never_see_it(stream):
    async def check():
        async with vllm_cluster(prefill=1, decode=1) as pd:
            mine = 'mine "1"'
            _, body, _ = await pd.post(
                "/v1/completions", {"prompt": "a", "stream": stream},
                headers={"x-request-id": mine},
            )  # fmt: skip
            events = body[:-1] if stream else [body]
            assert {event["id"] for event in events} == {f"cmpl-{mine}"}
            assert all(ID.fullmatch(rid) for s in pd.servers.values() for rid in s.ids)
            _, body, _ = await pd.ask()
            assert ID.fullmatch(body["id"].removeprefix("cmpl-"))
            long = await pd.post(
                "/v1/completions", {"prompt": "a"}, headers={"X-Request-Id": "x" * 8193}
            )
            assert long[0] in {400, 431}

    run(check)


def test_the_numbers_by_which_agents_name_a_request_are_those_of_its_id():
    call = parse_call("/v1/completions", b'{"prompt": ["a", "b", "c"]}')
    for number in range(3):
        first = int(call.name(number).removeprefix("voltana-")[:16], 16)
        assert call.marks(number) == tuple((first + i) % 2**64 for i in range(3))
    assert len({call.name(n) for n in range(10)}) == 10
    assert not set(call.marks(0)) & set(call.marks(1))


def test_a_request_is_counted_for_who_its_body_names():
    async def check():
        async with vllm_cluster(tenant_key="user", unified=1) as pd:
            for user in ("a", "a", None):
                asked = {"prompt": "a", "max_tokens": 2} | ({} if user is None else {"user": user})
                assert texts(await pd.post("/v1/completions", asked), stream=False)
            assert dict(pd.service.forwarder._energy.requests) == {"a": 2, "unnamed": 1}

    run(check)


def test_loads_are_read_of_the_metrics():
    state = dataclasses.replace(state_of(METRICS), clock_mhz=0.0)
    assert state == InstanceState(
        running_requests=5, kv_tokens=1200, queued_requests=1, clock_mhz=0.0
    )
    with pytest.raises(ValueError, match="unknown form of metrics"):
        state_of("vllm:other 1")
    with pytest.raises(ValueError, match="num_requests_running = nan"):
        state_of('vllm:num_requests_running{engine="0"} nan\n')


@pytest.mark.parametrize("said", [1, 1.0, "true", "True", "yes", "on"])
def test_what_servers_read_as_a_wish_to_stream_is_streamed(said):
    """Their parsers take words and numbers; the first token is passed on before the last."""

    async def check():
        async with vllm_cluster(prefill=1, decode=1) as pd:
            pd.servers["decode-0"].gate.close(after=1)
            body = {"prompt": "a", "max_tokens": 6, "stream": said}
            async with pd.client.post(pd.url + "/v1/completions", json=body) as reply:
                assert reply.status == 200
                await reply.content.readany()
                assert pd.service.forwarder.open  # others are still to come
                pd.servers["decode-0"].gate.open()
                await reply.read()
            await tidy(pd)

    run(check)


@pytest.mark.parametrize("said", [0, 0.0, "false", "off", None, "", "maybe", 2, [1], {}])
def test_what_they_read_otherwise_or_refuse_is_not(said):
    call = parse_call("/v1/completions", json.dumps({"prompt": "a", "stream": said}).encode())
    assert call.stream is False
