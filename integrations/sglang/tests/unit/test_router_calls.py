"""Requests as the router reads them, the settings, and the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from voltana.errors import VoltanaError
from voltana.serving.router.prompt_length import FIRST_GUESS, PromptLength
from voltana_sglang import steer_command
from voltana_sglang.dialect.call import ROOM_LIMIT, Bootstrap, parse_call
from voltana_sglang.dialect.settings import SglangBackend

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
OURS = {
    *("rid", "bootstrap_host", "bootstrap_port", "bootstrap_room", "bootstrap_pair_key"),
    *("decode_tp_size", "http_worker_ipc", "encoder_urls", "num_items_assigned"),
    *("need_wait_for_mm_inputs", "kv_hints", "received_time", "background"),
}
"""What no client may set: written out, so that a name lost from the router's list is missed."""

BODIES = st.dictionaries(
    st.sampled_from(["text", "prompt", "stream", "n", *sorted(OURS)]) | st.text(), VALUES
)


@given(BODIES, st.sampled_from(["", " ", "\n  "]), st.booleans())
def test_any_object_keeps_its_fields_and_gains_the_transfer_s(
    fields: dict[str, Any], space: str, indented: bool
) -> None:
    raw = (space + json.dumps(fields, indent=2 if indented else None) + space).encode()
    call = parse_call("/generate", raw)
    body = json.loads(call.leg_body(0, Bootstrap.draw("h", 5, call.batch)))
    added = {"bootstrap_host", "bootstrap_port", "bootstrap_room", "rid"}
    assert body["rid"] == call.rid != fields.get("rid")
    assert set(body) == set(fields) - OURS | added
    for name in set(fields) - OURS:
        assert body[name] == fields[name]
    rooms = body["bootstrap_room"] if call.batch else [body["bootstrap_room"]]
    assert len(rooms) == (call.batch or 1)
    assert all(0 <= room < ROOM_LIMIT for room in rooms)


@pytest.mark.parametrize(
    ("path", "body", "batch", "tokens", "size"),
    [
        ("/generate", {"text": "héllo"}, None, -1, 6),
        ("/generate", {"text": ["a", "bc"]}, 2, -1, 3),
        ("/generate", {"input_ids": [1, 2, 3]}, None, 3, 0),
        ("/generate", {"input_ids": [[1], [2, 3]]}, 2, 3, 0),
        ("/generate", {"input_embeds": [[0.5]] * 3}, None, 3, 0),
        ("/v1/completions", {"prompt": "abcd"}, None, -1, 4),
        ("/v1/completions", {"prompt": [4, 5]}, None, 2, 0),
        ("/v1/completions", {"prompt": ["x"]}, 1, -1, 1),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "abc"}]}, None, -1, 3),
        (
            "/v1/chat/completions",
            {
                "messages": [
                    {"content": [{"type": "text", "text": "ab"}, {"image_url": {"url": "data:x"}}]}
                ]
            },
            None,
            -1,
            2,
        ),
    ],
)
def test_batches_and_lengths(
    path: str, body: dict[str, Any], batch: int | None, tokens: int, size: int
) -> None:
    call = parse_call(path, json.dumps(body).encode())
    assert (call.batch, call.prompt_tokens, call.prompt_bytes) == (batch, tokens, size)


def test_the_length_of_a_token_is_learned_from_answers() -> None:
    lengths = PromptLength()
    call = parse_call("/generate", json.dumps({"text": "x" * 600}).encode())
    assert lengths.estimate(call) == 600 / FIRST_GUESS
    for _ in range(200):
        lengths.learn(call, b'{"meta_info": {"prompt_tokens": 300}}')
    assert lengths.estimate(call) == pytest.approx(300, rel=0.03)
    lengths.learn(call, b'{"no": "usage"}')
    lengths.learn(call, b'{"prompt_tokens": 0}')
    assert lengths.estimate(call) == pytest.approx(300, rel=0.03)
    exact = parse_call("/generate", b'{"input_ids": [1, 2]}')
    lengths.learn(exact, b'{"prompt_tokens": 999}')
    assert lengths.estimate(exact) == 2


@pytest.mark.parametrize(
    ("url", "bootstrap_host", "expected"),
    [
        ("http://10.0.0.1:30000", None, "10.0.0.1"),
        ("http://[::1]:30000", None, "[::1]"),
        ("http://proxy:1", "ib0.host", "ib0.host"),
    ],
)
def test_where_decode_servers_reach_a_prefill_server(
    url: str, bootstrap_host: str | None, expected: str
) -> None:
    made = SglangBackend(name="p", role="prefill", url=url, bootstrap_host=bootstrap_host)
    assert made.transfer_host == expected


def complaint(command: Any, *arguments: str) -> str:
    """What a command that is started wrongly says."""
    app = steer_command.typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, VoltanaError), result.output
    return str(result.exception)


def test_steering_needs_decode_servers() -> None:
    assert "decode servers, one or more" in complaint(steer_command.steer)
