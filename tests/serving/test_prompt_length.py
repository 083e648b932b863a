"""How long a prompt is believed to be: everything that becomes tokens counts, and nothing else."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.serving.engine import Call, PromptSize
from voltana.serving.router.openai_prompt import batch_of, chat_size, prompt_size
from voltana.serving.router.prompt_length import LEAST_BYTES, MOST_BYTES, MOST_PICTURE, PromptLength

TEXT = {"type": "text", "text": "What is on this picture?"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
SOUND = {"type": "input_audio", "input_audio": {"data": "A" * 100_000}}
TOOLS = [
    {"type": "function", "function": {"name": f"f{i}", "description": "d" * 600, "parameters": {}}}
    for i in range(30)
]


def call(size: PromptSize, batch: int | None = None) -> Call:
    return Call(path="/p", raw=b"", stream=False, batch=batch, rid="r", size=size)


def chat(content: Any, **fields: Any) -> Call:
    return call(chat_size({"messages": [{"role": "user", "content": content}], **fields}))


def reports(tokens: int) -> bytes:
    return orjson.dumps({"choices": [], "usage": {"prompt_tokens": tokens, "total_tokens": 9}})


PLAIN = chat("x" * 4000)
"""A thousand tokens."""


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"messages": [{"content": "héllo"}, {"content": None}]}, PromptSize(text_bytes=6)),
        ({"messages": [{"content": [TEXT, "ab"]}]}, PromptSize(text_bytes=26)),
        ({"messages": [{"content": [TEXT, PICTURE]}]}, PromptSize(text_bytes=24, pictures=1)),
        ({"messages": [{"content": [SOUND]}]}, PromptSize(whole=False)),
        (
            {"messages": [{"tool_calls": [{"function": {"name": "f", "arguments": "x" * 40}}]}]},
            PromptSize(text_bytes=41),
        ),
        ({"messages": [], "tools": TOOLS}, PromptSize(text_bytes=len(orjson.dumps(TOOLS)))),
        ({"messages": [], "functions": TOOLS}, PromptSize(text_bytes=len(orjson.dumps(TOOLS)))),
        ({"messages": "nonsense", "tools": 5}, PromptSize()),
        ({"messages": [5, {"content": 5, "tool_calls": [5, {}]}]}, PromptSize()),
    ],
)
def test_all_of_a_chat_counts_that_becomes_tokens(fields: dict[str, Any], size: PromptSize) -> None:
    assert chat_size(fields) == size


@pytest.mark.parametrize(
    ("prompt", "batch", "size"),
    [
        ("abcd", None, PromptSize(text_bytes=4)),
        (["a", "bc"], 2, PromptSize(text_bytes=3)),
        ([4, 5], None, PromptSize(tokens=2)),
        ([[1], [2, 3]], 2, PromptSize(tokens=3)),
        ([], None, PromptSize()),
        (None, None, PromptSize()),
    ],
)
def test_a_prompt_is_text_or_token_ids_or_several(
    prompt: Any, batch: int | None, size: PromptSize
) -> None:
    assert (batch_of(prompt), prompt_size(prompt)) == (batch, size)


def test_pictures_are_learned_apart_from_text() -> None:
    lengths, picture = PromptLength(), chat([PICTURE, TEXT])
    for number in range(200):
        lengths.learn(*((picture, reports(1310)) if number % 2 else (PLAIN, reports(1000))))
    assert lengths.estimate(picture) == pytest.approx(1310, rel=0.03)
    assert lengths.estimate(PLAIN) == pytest.approx(1000, rel=0.01)


def test_tools_count_so_that_they_do_not_make_text_long() -> None:
    lengths, tools = PromptLength(), chat("List my meetings.", tools=TOOLS)
    for _ in range(100):
        lengths.learn(tools, reports(5200))
    assert lengths.estimate(tools) == pytest.approx(5200, rel=0.1)
    assert lengths.estimate(PLAIN) == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize(
    "taught",
    [
        chat([TEXT, SOUND]),
        call(PromptSize(tokens=5)),
        call(PromptSize()),
        call(PromptSize(text_bytes=100), batch=2),
    ],
)
def test_what_was_not_counted_teaches_nothing(taught: Call) -> None:
    lengths = PromptLength()
    for _ in range(100):
        lengths.learn(taught, reports(50_000))
    assert lengths.estimate(PLAIN) == 1000
    assert lengths.tokens_per_picture == PromptLength().tokens_per_picture


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**9)), max_size=60))
def test_no_answers_make_a_token_of_text_absurd(answers: list[tuple[int, int]]) -> None:
    lengths = PromptLength()
    for size, tokens in answers:
        lengths.learn(call(PromptSize(text_bytes=size)), reports(tokens))
    assert LEAST_BYTES - 1e-9 <= lengths.bytes_per_token <= MOST_BYTES + 1e-9


def test_a_server_that_lies_of_a_picture_is_believed_within_bounds() -> None:
    lengths = PromptLength()
    for tokens in (10**12, 10**8, 10**8, int("9" * 4000)):
        lengths.learn(chat([TEXT, PICTURE]), b'{"usage":{"prompt_tokens":%d}}' % tokens)
    lengths.learn(chat([TEXT, PICTURE]), b'{"prompt_tokens":' + b"9" * 5000 + b"}")
    assert 1.0 <= lengths.tokens_per_picture <= MOST_PICTURE


def test_a_length_is_found_at_both_ends_of_a_long_answer() -> None:
    for answer in (
        b'{"prompt_tokens": 5000,"x":"' + b"a" * 10**6 + b'"}',
        b'{"x":"' + b"a" * 10**6 + b'","prompt_tokens":5000}',
    ):
        lengths = PromptLength()
        for _ in range(300):
            lengths.learn(PLAIN, answer)
        assert lengths.estimate(PLAIN) == pytest.approx(4000, rel=0.2)
