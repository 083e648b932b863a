"""Requests as the router reads them, the settings, and the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from voltana.errors import VoltanaError
from voltana.serving.router import command as router_command
from voltana.serving.router.call import ROOM_LIMIT, Bootstrap, parse_call
from voltana.serving.router.command_line import table_of
from voltana.serving.router.prompt_length import FIRST_GUESS, PromptLength
from voltana.serving.router.routers import own_modules
from voltana.serving.router.settings import BackendTable, RouterTable
from voltana.validation import explain
from voltana_sglang import steer_command

if TYPE_CHECKING:
    from pathlib import Path

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
BODIES = st.dictionaries(
    st.sampled_from(["text", "prompt", "bootstrap_room", "rid", "stream", "n"]) | st.text(), VALUES
)


@given(BODIES, st.sampled_from(["", " ", "\n  "]), st.booleans())
def test_any_object_keeps_its_fields_and_gains_the_transfer_s(
    fields: dict[str, Any], space: str, indented: bool
) -> None:
    raw = (space + json.dumps(fields, indent=2 if indented else None) + space).encode()
    call = parse_call("/generate", raw)
    body = json.loads(call.leg_body(0, Bootstrap.draw("h", 5, call.batch)))
    added = {"bootstrap_host", "bootstrap_port", "bootstrap_room"}
    if isinstance(fields.get("rid"), str | None) and fields.get("rid") != "":
        assert body["rid"] == call.rid
        added.add("rid")
    assert set(body) == set(fields) | added
    for name in set(fields) - added:
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
        ("/generate", {"input_embeds": [[0.5]]}, None, -1, 0),
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


def backend(name: str, role: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "url": "http://h:1"} | changes


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"backends": [backend("p", "prefill")]}, "Add a decode server"),
        ({"backends": [backend("a", "unified"), backend("b", "decode")]}, "one router for each"),
        ({"backends": [backend("a", "unified"), backend("a", "unified")]}, "its own name"),
        ({"backends": [backend("a", "unified", url="h:1")]}, "Write http://HOST:PORT"),
        ({"backends": [backend("a", "unified", url="http://h:x")]}, "Write http://HOST:PORT"),
        ({"timeout_s": 0}, "timeout_s = 0 is not allowed"),
        ({"tiemout_s": 3}, "Did you mean 'timeout_s'"),
        ({"port": 70000}, "at most 65535"),
        ({"backends": [backend("a", "unified", feed="h:5601")]}, "must be tcp://HOST:PORT or ipc"),
        ({"backends": [backend("a", "unified", feed="tcp://h")]}, "must be tcp://HOST:PORT or ipc"),
    ],
)
def test_wrong_settings_name_field_range_and_remedy(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RouterTable.model_validate(table)
    assert message in str(explain(caught.value, RouterTable))


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
    made = BackendTable(name="p", role="prefill", url=url, bootstrap_host=bootstrap_host)
    assert made.transfer_host == expected


def complaint(command: Any, *arguments: str) -> str:
    """What a command that is started wrongly says."""
    app = router_command.typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, VoltanaError), result.output
    return str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "at least one server"),
        (("--prefill", "http://h:1"), "Add a decode server"),
        (("--decode", "http://h:1,8998"), "URL,PORT of a prefill server"),
        (("--unified", "http://h:1", "--feed", "x=tcp://h:2"), "with a NAME of unified-0"),
        (("--config", "/nowhere.toml"), "cannot be read"),
    ],
)
def test_the_router_s_command_line_explains_itself(
    arguments: tuple[str, ...], message: str
) -> None:
    assert message in complaint(router_command.router, *arguments)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "voltana.toml"
    path.write_text("[router\n")
    assert "is not valid TOML" in complaint(router_command.router, "--config", str(path))
    path.write_text("router = 5\n")
    assert "Write [router]" in complaint(router_command.router, "--config", str(path))


def test_modules_that_the_policy_names_may_send_snapshots(tmp_path: Path) -> None:
    path = tmp_path / "voltana.toml"
    path.write_text(
        '[policy]\ncontroller = "voltana"\npredictor = "mine.models:make"\nlevels = "above:900"\n'
        '[router]\npolicy = "mine.policies:make"\nport = 31000\n'
    )
    settings = RouterTable.model_validate(table_of(path, "router"))
    assert settings.port == 31000
    assert own_modules(settings) == {"mine.models", "mine.policies"}


def test_steering_needs_decode_servers() -> None:
    assert "decode servers, one or more" in complaint(steer_command.steer)
