"""A real prefill/decode pair over NIXL and TCP, behind the router."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
from typing import TYPE_CHECKING

import pytest

from load_client import post
from measured import Ring, counter, finished
from pairs import LEASE_S, running_pair
from routed import router_before, streamed, tokens_of
from vllm_server import VllmServer, ask, greedy, prompt_of
from voltana_vllm.dialect.call import ASKS_TO_KEEP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMPTS = 20
TOKENS = 16
PORT = 23220
ROUTER = 23250


@pytest.fixture(scope="module")
def pair(model: Path, config: Path) -> Iterator[tuple[VllmServer, VllmServer]]:
    """A prefill and a decode server, with the plugin."""
    with running_pair(model, config, PORT) as made:
        yield made


@pytest.fixture(scope="module")
def router(pair: tuple[VllmServer, VllmServer], config: Path) -> Iterator[str]:
    """The router before them."""
    prefill, decode = pair
    with router_before(
        ROUTER, config.with_name("router.log"), prefill=prefill.url, decode=decode.url
    ) as url:
        yield url


def test_greedy_tokens_are_those_of_one_server(
    pair: tuple[VllmServer, VllmServer], router: str, config: Path
) -> None:
    prefill, decode = pair
    ring = Ring(config.with_name("rings"), "decode-0")
    time.sleep(1)
    ring.taken()
    answers = []
    for index in range(PROMPTS):
        prompt = prompt_of(30 + 37 * index, seed=index)
        routed = tokens_of(ask(router + "/v1/completions", greedy(prompt, TOKENS)))
        stream = streamed(post(router + "/v1/completions", greedy(prompt, TOKENS, stream=True)))
        alone = tokens_of(prefill.complete(prompt, TOKENS))
        assert routed == stream == alone, index
        answers.append(tuple(alone))
    assert len(set(answers)) > PROMPTS // 2  # the model tells its prompts apart
    time.sleep(2)
    loads = [record.load for record in finished(ring.taken())]
    ring.close()
    # The decode server computed no prompt: all came over the wire.
    assert sum(load.prefill_tokens for load in loads) == 0
    assert sum(load.decode_requests for load in loads) == 2 * PROMPTS * TOKENS
    assert counter(ask(decode.url + "/metrics"), "vllm:nixl_num_failed_transfers_total") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_ends_with_its_first_token_is_that_of_one_server(
    pair: tuple[VllmServer, VllmServer], router: str, stream: bool
) -> None:
    """Nobody may stop the prefill server at that token: a connector may hand over nothing then."""
    prefill, _ = pair
    for seed in range(4):
        prompt = prompt_of(70, seed=seed)
        first = tokens_of(prefill.complete(prompt, 1))
        body = greedy(prompt, TOKENS, stop_token_ids=first, stream=stream)
        assert tokens_of(prefill.complete(prompt, TOKENS, stop_token_ids=first)) == first
        raw = post(router + "/v1/completions", body)
        assert (streamed(raw) if stream else tokens_of(json.loads(raw))) == first


@pytest.mark.parametrize(
    "more", [{"use_beam_search": True}, {"prompt_logprobs": 0}, {"echo": True, "logprobs": 0}]
)
def test_what_only_one_server_answers_is_refused(
    pair: tuple[VllmServer, VllmServer], router: str, more: dict[str, object]
) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(router + "/v1/completions", greedy(prompt_of(50), 4, **more))
    assert tokens_of(ask(router + "/v1/completions", greedy(prompt_of(50), 4)))


def held(server: VllmServer) -> float:
    """Share of a server's KV cache that is in use; asked after a step, which refreshes it."""
    server.complete([7, 8, 9], 1)
    return counter(ask(server.url + "/metrics"), "vllm:kv_cache_usage_perc")


def test_a_kv_cache_that_nobody_fetches_is_free_at_once_when_the_router_gives_it_up(
    pair: tuple[VllmServer, VllmServer],
) -> None:
    """What the router sends then, by hand; without it the lease ends it after `LEASE_S`."""
    prefill, decode = pair
    assert held(prefill) == 0
    body = greedy(prompt_of(900, seed=99), 1, kv_transfer_params=ASKS_TO_KEEP)
    params = ask(prefill.url + "/v1/completions", body)["kv_transfer_params"]
    assert held(prefill) > 0
    began_s = time.monotonic()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(
            decode.url + "/v1/completions",
            {
                "model": "voltana-releases-a-kv-cache",
                "prompt": [0],
                "max_tokens": 1,
                "kv_transfer_params": params,
            },
        )
    while held(prefill) > 0:
        assert time.monotonic() - began_s < LEASE_S / 2
        time.sleep(0.2)


def test_requests_go_on_when_clients_leave_in_the_middle(
    pair: tuple[VllmServer, VllmServer], router: str
) -> None:
    prefill, _ = pair
    for index in range(6):
        body = greedy(prompt_of(300 + index, seed=index), 300, stream=True)
        process = subprocess.Popen(
            ["curl", "-sN", "-H", "Content-Type: application/json", "-d", json.dumps(body),
             router + "/v1/completions"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.05 * index)
        process.kill()
        process.wait()
    began_s = time.monotonic()
    while held(prefill) > 0:
        assert time.monotonic() - began_s < 2 * LEASE_S
        time.sleep(0.5)
    assert tokens_of(ask(router + "/v1/completions", greedy(prompt_of(40), 8)))
