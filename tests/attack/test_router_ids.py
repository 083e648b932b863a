"""A client's request id, and its headers, as a way to what is not its own."""

from __future__ import annotations

import asyncio
import json

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


def test_two_clients_with_one_id_do_not_meet() -> None:
    slow = post(b'{"text": "a", "rid": "same", "slow": 0.5}')

    async def attack(stage: Stage) -> None:
        async def both() -> None:
            said = await asyncio.gather(*(say(stage.port, slow) for _ in range(4)))
            assert {status_of(answer) for answer in said} == {200}
            assert all(b'"id": "same"' in answer for answer in said)

        await stage.honest_beside(both)

    run(attack)


def test_an_abort_of_what_is_not_known_here_goes_nowhere() -> None:
    """Prefixes of an id, which a server would take for all requests that begin with it."""
    slow = post(b'{"text": "a", "rid": "victim", "slow": 1.0, "stream": true}')

    async def attack(stage: Stage) -> None:
        async def abort() -> None:
            going = asyncio.create_task(say(stage.port, slow))
            await asyncio.sleep(0.2)
            for rid in [*"0123456789abcdef", "v", "victi", ""]:
                body = json.dumps({"rid": rid}).encode()
                await say(stage.port, post(body, path="/abort_request"))
            said = await going
            assert status_of(said) == 200
            assert said.count(b"data: ") == 9, said[-300:]  # all words, and [DONE]

        await stage.honest_beside(abort)

    run(attack)


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
