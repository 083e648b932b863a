"""Chat on a real prefill/decode pair: words, tools, and answers that have to be of a form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from load_client import post
from pairs import running_pair
from routed import router_before
from vllm_server import VllmServer, ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PORT = 23260
ROUTER = 23270
SPEAKS = (
    "--no-skip-tokenizer-init", "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
    "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
)  # fmt: skip

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
FORM = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"ignore_eos": True},
    "log probabilities": {"ignore_eos": True, "logprobs": True, "top_logprobs": 2},
    "drawn": {"ignore_eos": True, "temperature": 1, "seed": 5},
    "stops at a word": {"stop": ["e", "0", "1"]},
    "tools, free": {"tools": [TOOL], "ignore_eos": True},
    "this tool": {
        "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}},
    },
    "some tool": {"tools": [TOOL], "tool_choice": "required"},
    "of a form": {"response_format": FORM},
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(model: Path, config: Path) -> Iterator[tuple[VllmServer, VllmServer]]:
    with running_pair(model, config, PORT, SPEAKS) as made:
        yield made


@pytest.fixture(scope="module")
def router(pair: tuple[VllmServer, VllmServer], config: Path) -> Iterator[str]:
    prefill, decode = pair
    log = config.with_name("router.log")
    with router_before(ROUTER, log, prefill=prefill.url, decode=decode.url) as url:
        yield url


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_is_what_one_server_says(
    pair: tuple[VllmServer, VllmServer], router: str, kind: str, stream: bool
) -> None:
    for question in ("What is the weather in Rome?", "Name a town, any. " * 9):
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 60,
            "temperature": 0,
            "stream": stream,
        } | KINDS[kind]
        routed, alone = (said(url, body) for url in (router, pair[0].url))
        assert routed == alone
        assert alone


def said(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """What a server says to a chat: words, tools and reasons to stop of every choice."""
    url += "/v1/chat/completions"
    if not body["stream"]:
        return merged([(c, c["message"]) for c in ask(url, body)["choices"]])
    parts = [part for part in post(url, body).decode().split("\n\n") if part]
    assert parts[-1] == "data: [DONE]"
    events = [json.loads(part.removeprefix("data: ")) for part in parts[:-1]]
    return merged([(c, c["delta"]) for event in events for c in event["choices"]])


def merged(pieces: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Choices from their pieces, however these were cut; without ids, which differ."""
    choices: dict[int, dict[str, Any]] = {}
    for choice, piece in pieces:
        whole = choices.setdefault(
            choice["index"], {"words": "", "tools": {}, "tokens": [], "ends": None}
        )
        whole["words"] += piece.get("content") or ""
        for index, call in enumerate(piece.get("tool_calls") or ()):
            told = call["function"]
            tool = whole["tools"].setdefault(call.get("index", index), ["", ""])
            tool[0] += told.get("name") or ""
            tool[1] += told.get("arguments") or ""
        for token in (choice.get("logprobs") or {}).get("content") or ():
            whole["tokens"].append(
                [token["token"], [top["token"] for top in token["top_logprobs"]]]
            )
        whole["ends"] = choice["finish_reason"] or whole["ends"]
    return [choices[index] for index in sorted(choices)]
