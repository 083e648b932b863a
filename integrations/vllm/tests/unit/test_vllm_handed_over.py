"""Prefill servers that hand over nonsense, and clients that make what is handed over long."""

from __future__ import annotations

import time

import orjson
import pytest
from fake_servers import vllm_cluster
from test_vllm_router import run, texts

from tests.serving.late_servers import words_of
from voltana_vllm.dialect.handed_over import READ_WHOLE, handed_over

OUT = {"health_period_s": 60.0, "health_timeout_s": 10.0, "eject_s": 60.0, "eject_max_s": 60.0}
"""Settings under which no check forgets failures, nor brings back who is ejected for them."""

DEEP = b"[" * 300 + b"]" * 300
PARAMS = {"do_remote_prefill": True, "remote_block_ids": [[1, 2]], "remote_engine_id": "e"}


def under_key(value):
    return b'{"id":"x","kv_transfer_params":' + value + b"}"


NONSENSE = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    *map(under_key, [b"null", b"[]", b"{}", b'"x"', b"1", b"true", b"9" * 400, b"NaN"]),
    under_key(b'{"a":' + DEEP + b"}"),
    under_key(b'{"a":"\\ud800"}'),
    b" " * READ_WHOLE + b'{"a":1}',
    b" " * READ_WHOLE + under_key(b'{"a":' + DEEP + b"}"),
    b" " * READ_WHOLE + under_key(b'{"a":' + b"[" * 100_000),
    b" " * READ_WHOLE + under_key(b"[" * READ_WHOLE),
]


@pytest.mark.parametrize("says", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_costs_a_repetition_elsewhere_and_is_held_against_its_server(says):
    async def check():
        async with vllm_cluster(prefill=2, decode=1, **OUT) as pd:
            pd.servers["prefill-0"].says = says
            for _ in range(6):
                assert texts(await pd.ask(), stream=False) == words_of("a")
            await pd.quiet()
            assert pd.complaints == []
            assert pd.service.pool.named("prefill-0").ejections == 1

    run(check)


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_decode_server_refuses_of_one_prefill_server_is_held_against_that(stream):
    """It hands over what looks right, of a cache that is not there."""

    async def check():
        async with vllm_cluster(prefill=3, decode=1, eject_after=2, **OUT) as pd:
            wrong = PARAMS | {
                "do_remote_decode": False, "remote_request_id": "another's", "tp_size": 1,
                "remote_host": "127.0.0.1", "remote_port": 5600,
            }  # fmt: skip
            pd.servers["prefill-0"].says = under_key(orjson.dumps(wrong))
            for _ in range(24):
                assert texts(await pd.ask(stream=stream), stream=stream) == words_of("a")
            await pd.quiet()
            assert len(pd.complaints) == 2, "it is asked again and again"
            assert pd.service.pool.named("prefill-0").ejections == 1

    run(check)


def test_a_mistake_of_the_client_s_that_only_decode_servers_see_is_told_as_it_is():
    async def check():
        async with vllm_cluster(prefill=3, decode=2) as pd:
            for name in ("decode-0", "decode-1"):
                pd.servers[name].faults.extend(["400"] * 9)
            status, body, _ = await pd.ask()
            assert (status, body["error"]["message"]) == (400, "told to")
            await pd.quiet()
            asked = [len(pd.servers[f"prefill-{n}"].seen) for n in range(3)]
            assert sum(asked) == 2
            assert all(pd.service.pool.named(f"prefill-{n}").healthy for n in range(3))

    run(check)


def test_log_probabilities_of_megabytes_are_not_read_for_what_stands_behind_them():
    """A client asks for those of its prompt: reading them would hold everybody else up."""
    entry = b'{"1":{"logprob":-1.25,"rank":1,"decoded_token":"\\"kv_transfer_params\\":[]"}},'
    listed = (
        b'{"choices":[{"prompt_logprobs":[' + entry * 200_000 + b'null]}],"kv_transfer_params":'
    )
    answer = listed + orjson.dumps(PARAMS) + b"}"
    began_s = time.thread_time()
    assert orjson.loads(answer)["kv_transfer_params"] == PARAMS
    whole_s = time.thread_time() - began_s
    began_s = time.thread_time()
    assert handed_over(answer) == PARAMS
    assert time.thread_time() - began_s < whole_s / 5
