"""Answers through the router are those of one unified server, on real engines."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from router_process import RouterProcess, ask, router
from servers import administration, get, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Server

PROMPTS = tuple(
    " ".join(f"{word}{i * 7 + k}" for k, word in enumerate(("The", "sum", "of", "x") * (1 + i % 9)))
    for i in range(22)
)
TOKENS = 12
LONG_TOKENS = 2000
"""An answer that a client does not wait for."""

SEEN_EVENTS = 20


def calls(prompt: str, *, stream: bool) -> list[tuple[str, dict[str, Any]]]:
    """One request to each endpoint."""
    openai = {"model": "tiny", "temperature": 0, "max_tokens": TOKENS, "stream": stream}
    return [
        (
            "/generate",
            {
                "text": prompt,
                "sampling_params": {"temperature": 0, "max_new_tokens": TOKENS},
                "stream": stream,
            },
        ),
        ("/v1/completions", {**openai, "prompt": prompt}),
        ("/v1/chat/completions", {**openai, "messages": [{"role": "user", "content": prompt}]}),
    ]


def text_of(path: str, answer: Any) -> str:
    """The whole text of an answer or of a stream."""
    if isinstance(answer, dict):
        if path == "/generate":
            return str(answer["text"])
        choice = answer["choices"][0]
        return str(choice["text"] if path == "/v1/completions" else choice["message"]["content"])
    assert answer[-1] == "[DONE]"
    if path == "/generate":
        return str(answer[-2]["text"])
    parts = [e["choices"][0] for e in answer[:-1] if e["choices"]]
    if path == "/v1/completions":
        return "".join(p["text"] for p in parts)
    return "".join(p["delta"].get("content") or "" for p in parts)


def all_texts(url: str) -> dict[tuple[str, str, bool], str]:
    """The answers to all prompts on all endpoints, streaming and not."""

    def one(job: tuple[str, str, bool, dict[str, Any]]) -> tuple[tuple[str, str, bool], str]:
        prompt, path, stream, body = job
        status, answer = ask(url, path, body)
        assert status == 200, answer
        return (prompt, path, stream), text_of(path, answer)

    jobs = [
        (prompt, path, stream, body)
        for prompt in PROMPTS
        for stream in (False, True)
        for path, body in calls(prompt, stream=stream)
    ]
    with ThreadPoolExecutor(3) as pool:
        return dict(pool.map(one, jobs))


LOGPROBS = {
    "text": PROMPTS[4],
    "sampling_params": {"temperature": 0, "max_new_tokens": 4},
    "return_logprob": True,
    "logprob_start_len": 0,
    "top_logprobs_num": 2,
}
BATCH = {
    "text": list(PROMPTS[:3]),
    "sampling_params": {"temperature": 0, "max_new_tokens": TOKENS},
}


@pytest.fixture(scope="module")
def reference(fleet: Any) -> dict[str, Any]:
    """What the unified server says, asked before the others take its place."""
    from servers import ServerSpec

    url = fleet.get(ServerSpec(name="unified"))[0].url
    return {
        "texts": all_texts(url),
        "logprobs": ask(url, "/generate", LOGPROBS)[1],
        "logprobs-stream": ask(url, "/generate", {**LOGPROBS, "stream": True})[1],
        "batch": ask(url, "/generate", BATCH)[1],
        "models": json.loads(get(f"{url}/v1/models")[1]),
        "wrong": ask(url, "/generate", {"text": "a", "sampling_params": {"temperature": -3}}),
    }


def test_through_one_unified_server(
    reference: dict[str, Any], unified: Server, tmp_path: Path
) -> None:
    with router(tmp_path, unified) as made:
        assert all_texts(made.url) == reference["texts"]


def test_through_a_pair(
    reference: dict[str, Any], pair: tuple[Server, Server], tmp_path: Path
) -> None:
    with router(tmp_path, *pair) as made:
        found = all_texts(made.url)
        assert len({prompt for prompt, _, _ in found}) >= 20
        assert found == reference["texts"]
        check_the_rest(reference, made)


def check_the_rest(reference: dict[str, Any], made: RouterProcess) -> None:
    """Log-probabilities, batches, information and mistakes."""
    expected = reference["logprobs"]["meta_info"]
    found = ask(made.url, "/generate", LOGPROBS)[1]["meta_info"]
    assert_logprobs(found["input_token_logprobs"], expected["input_token_logprobs"])
    assert len(found["input_top_logprobs"]) == len(expected["input_top_logprobs"])
    assert_logprobs(found["output_token_logprobs"], expected["output_token_logprobs"])
    events = ask(made.url, "/generate", {**LOGPROBS, "stream": True})[1]
    assert_logprobs(
        events[-2]["meta_info"]["input_token_logprobs"],
        reference["logprobs-stream"][-2]["meta_info"]["input_token_logprobs"],
    )
    batch = ask(made.url, "/generate", BATCH)[1]
    assert [a["text"] for a in batch] == [a["text"] for a in reference["batch"]]
    models = json.loads(get(f"{made.url}/v1/models")[1])
    assert models["data"][0]["id"] == reference["models"]["data"][0]["id"]
    assert json.loads(get(f"{made.url}/server_info")[1])["internal_states"]
    assert get(f"{made.url}/health_generate")[0] == 200
    wrong = {"text": "a", "sampling_params": {"temperature": -3}}
    status, answer = ask(made.url, "/generate", wrong)
    assert (status, answer) == reference["wrong"]
    assert len(json.loads(get(f"{made.url}/v1/loads")[1])["loads"]) == 2


def assert_logprobs(found: list[Any], expected: list[Any]) -> None:
    """The same tokens with nearly the same probabilities."""
    assert [token for _, token, *_ in found] == [token for _, token, *_ in expected]
    for (a, *_), (b, *_) in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a == pytest.approx(b, abs=1e-3)


def test_through_one_prefill_and_two_decode_servers(
    reference: dict[str, Any], trio: tuple[Server, Server, Server], tmp_path: Path
) -> None:
    with router(tmp_path, *trio, arguments=("--policy", "voltana")) as made:
        assert all_texts(made.url) == reference["texts"]
        text = administration(made.url, "/metrics").decode()
        assert 'voltana_router_choices_total{role="decode",source="loads"}' in text


def test_a_client_that_leaves_frees_both_servers(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    with router(tmp_path, *pair) as made:
        body = json.dumps(
            {
                "text": "a long answer",
                "sampling_params": {"max_new_tokens": LONG_TOKENS, "ignore_eos": True},
                "stream": True,
            }
        ).encode()
        with socket.create_connection(("127.0.0.1", made.port)) as client:
            client.sendall(
                b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                + f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            began_s, seen = time.monotonic(), b""
            while seen.count(b"data:") < SEEN_EVENTS:
                more = client.recv(65536)
                assert more, seen
                seen += more
            token_s = (time.monotonic() - began_s) / SEEN_EVENTS
        left_s = time.monotonic()
        assert wait_for(lambda: not running(pair[1]) and not made.status()["decode-0"]["in_flight"])
        # Tokens only become slower, so that what was seen tells how long they all would take.
        assert time.monotonic() - left_s < 0.5 * token_s * LONG_TOKENS


def running(server: Server) -> int:
    loads = json.loads(get(f"{server.url}/v1/loads")[1])["loads"]
    return sum(load["num_running_reqs"] for load in loads)
