"""A client's request id, and its headers, as a way to what is not its own."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from tests.attack.odd_server import OddServer
from tests.attack.router_stage import Stage, post, run, run_before, say, status_of


def test_no_id_of_a_client_reaches_a_server() -> None:
    """Engines abort whatever begins with the id that they are told: not one byte is a client's."""
    servers = [OddServer(_silent)]
    ids = ["", "a", "1", "*", "x" * 5000, '"}', "\\u0000", "00000000000000000000000000000000"]

    async def attack(stage: Stage) -> None:
        async def all_of_them() -> None:
            for rid in ids:
                said = await say(stage.port, post(json.dumps({"text": "a", "rid": rid}).encode()))
                assert status_of(said) == 200
                answer = json.loads(said.partition(b"\r\n\r\n")[2])
                assert not rid or answer["meta_info"]["id"] == rid
            odd = (5, None, {"a": "b"}, [["a"]], True)
            for rid in odd:
                body = json.dumps({"text": "a", "rid": rid}).encode()
                assert status_of(await say(stage.port, post(body))) == 200

        await stage.honest_beside(all_of_them)
        seen = [json.loads(body)["rid"] for body in servers[0].bodies]
        assert len(set(seen)) == len(seen) > 20
        for rid in seen:
            assert isinstance(rid, str)
            assert len(rid) == 32
            assert rid not in ids
            int(rid, 16)

    run_before(servers, attack, timeout_s=10.0)


def test_no_client_says_where_an_answer_goes_or_legs_meet() -> None:
    """Fields that a server's own processes fill in for each other, which its API takes as well."""
    servers = [OddServer(_silent)]
    fields = {
        "http_worker_ipc": "tcp://192.0.2.1:9",
        "bootstrap_host": "192.0.2.1",
        "bootstrap_port": 9,
        "bootstrap_room": 1,
        "bootstrap_pair_key": "a",
        "decode_tp_size": 64,
        "encoder_urls": ["http://192.0.2.1"],
        "num_items_assigned": {"IMAGE": [1]},
        "need_wait_for_mm_inputs": True,
        "kv_hints": {"version": 1},
        "received_time": 0.0,
        "background": True,
    }

    async def attack(stage: Stage) -> None:
        for names in ([name] for name in fields), [list(fields)]:
            for chosen in names:
                body = {"text": "a", "rid": "a"} | {name: fields[name] for name in chosen}
                assert status_of(await say(stage.port, post(json.dumps(body).encode()))) == 200
        assert len(servers[0].bodies) > len(fields)
        for seen in map(json.loads, servers[0].bodies):
            assert not fields.keys() & seen.keys()

    run_before(servers, attack, timeout_s=10.0)


OVERRIDES = ("Rid", "Bootstrap-Host", "Bootstrap-Port", "Bootstrap-Room", "Conversation-Id")


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_no_client_says_it_in_a_header_either(engine: str) -> None:
    """SGLang takes what a body says from headers as well, where it is set up for a gateway."""
    heads: list[bytes] = []
    servers = [OddServer(_silent, heads)]
    path = "/v1/completions"

    async def attack(stage: Stage) -> None:
        body = b'{"prompt": "a", "rid": "a"}'
        for spelt in (str, str.lower, str.upper):
            lines = (spelt(f"X-Override-{name}: 7") for name in OVERRIDES)
            asked = post(body, *lines, "X-Other: 2", path=f"{path}?rid=7&request_id=7")
            assert status_of(await say(stage.port, asked)) == 200
            assert b"x-other: 2" in heads[-1]
            assert b"x-override" not in heads[-1]
            assert heads[-1].startswith(b"post /v1/completions http/1.1")

    run_before(servers, attack, engine=engine, timeout_s=10.0, health_period_s=60.0)


NAMES = {
    b"mine": 200, b'"}\\': 200, "\u00e4\u65e5".encode(): 200, b"": 200,
    b"\xff\xfe": 400, b"\x80a": 400, b"a\xed\xa0\x80": 400, b"x" * 8000: 200,
}  # fmt: skip
"""Ids that clients of vLLM give their requests, in a header."""


@pytest.mark.parametrize("stream", [False, True])
def test_an_id_in_a_header_is_text_and_stays_here(stream: bool) -> None:
    """One that is none broke its answer off after the server had computed it."""
    heads: list[bytes] = []
    servers = [OddServer(_silent, heads)]
    servers[0].ANSWER = b'data: {"id": "%s"}\n\ndata: [DONE]\n\n' if stream else b'{"id": "%s"}'
    body = json.dumps({"prompt": "a", "stream": stream, "request_id": "mine"}).encode()

    async def attack(stage: Stage) -> None:
        for name, status in NAMES.items():
            for header in (b"X-Request-Id", b"x-request-id"):
                served = len(heads)
                asked = post(body, "MARK", path="/v1/completions")
                said = await say(stage.port, asked.replace(b"MARK", header + b": " + name))
                assert status_of(said) == status, (name, said[:300])
                if status == 200:
                    known = heads[-1].partition(b"x-request-id: ")[2].split(b"\r\n")[0]
                    assert re.fullmatch(rb"voltana-[0-9a-f]{32}", known)
                    told = json.dumps(name.decode(), ensure_ascii=False).encode()[1:-1] or known
                    assert b'{"id": "%s"}' % told in said, (name, said[-300:])
                else:
                    assert len(heads) == served, "a server got it"
                    assert b"X-Request-Id" in said

    run_before(servers, attack, engine="vllm", timeout_s=10.0, health_period_s=60.0)


def test_two_clients_with_one_id_do_not_meet() -> None:
    slow = post(b'{"text": "a", "rid": "same", "slow": 0.5}')

    async def attack(stage: Stage) -> None:
        async def both() -> None:
            said = await asyncio.gather(*(say(stage.port, slow) for _ in range(4)))
            assert {status_of(answer) for answer in said} == {200}
            assert all(b'"id": "same"' in answer for answer in said)

        await stage.honest_beside(both)

    run(attack)


@pytest.mark.parametrize("servers", [2, {"prefill": 1, "decode": 1}], ids=["colocated", "pairs"])
def test_an_abort_of_what_is_not_known_here_goes_nowhere(servers: Any) -> None:
    """Prefixes of an id, which a server would take for all requests that begin with it."""
    slow = post(b'{"text": "a", "rid": "victim", "slow": 1.0, "stream": true}')

    async def attack(stage: Stage) -> None:
        async def abort() -> None:
            going = asyncio.create_task(say(stage.port, slow))
            await asyncio.sleep(0.2)
            for rid in [*"0123456789abcdef", "v", "victi", "victim_0", ""]:
                body = json.dumps({"rid": rid}).encode()
                await say(stage.port, post(body, path="/abort_request"))
            for rid in ("v", "", "*"):  # they leave, and the router has them aborted
                asked = {"text": "a", "rid": rid, "slow": 1.0, "stream": True}
                await say(stage.port, post(json.dumps(asked).encode()), read_s=0.1)
            said = await going
            assert status_of(said) == 200
            assert said.count(b"data: ") == 9, said[-300:]  # all words, and [DONE]

        await stage.honest_beside(abort)

    run(attack, servers=servers)


def test_headers_that_connection_names_end_here() -> None:
    heads: list[bytes] = []
    servers = [OddServer(_silent, heads)]

    async def attack(stage: Stage) -> None:
        body = b'{"text": "a", "rid": "a"}'
        lines = ("X-Secret: 1", "X-Other: 2", "Connection: X-Secret , close", "TE: trailers")
        request = post(body, *lines).replace(b"Connection: close\r\n", b"")
        assert status_of(await say(stage.port, request)) == 200
        assert b"x-other: 2" in heads[-1]
        assert b"x-secret" not in heads[-1]
        assert b"trailers" not in heads[-1]

    run_before(servers, attack, timeout_s=10.0, health_period_s=60.0)


async def _silent(_writer: asyncio.StreamWriter) -> None:
    pass
