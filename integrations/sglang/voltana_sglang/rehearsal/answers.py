"""What a virtual SGLang answers: objects and frames of streams in SGLang's own form."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from voltana_sglang.rehearsal.asked import CHAT, COMPLETIONS, GENERATE

if TYPE_CHECKING:
    from voltana_sglang.rehearsal.asked import Asked

DONE = b"data: [DONE]\n\n"
LETTER, TOKEN_ID = "a", 64

_KINDS = {COMPLETIONS: ("text_completion", "text_completion"),
          CHAT: ("chat.completion", "chat.completion.chunk")}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An answer so far.

    Attributes:
        asked: To what.
        index: Its place in a batch.
        tokens: Tokens so far.
        told: Those that were told before.
        reason: Why it ended, as SGLang says it; None while it goes on.
    """

    asked: Asked
    index: int
    tokens: int
    told: int
    reason: dict[str, Any] | None


def length_reason(tokens: int) -> dict[str, Any]:
    """The answer is as long as it was to be."""
    return {"type": "length", "length": tokens}


def abort_reason(message: str, status: int | None) -> dict[str, Any]:
    """The request was given up."""
    return {"type": "abort", "message": message, "status_code": status, "err_type": None}


def answer_object(path: str, model: str, given: Given, *, batch: bool = False) -> dict[str, Any]:
    """A whole answer; ``/generate`` tells everything so far in every frame, too."""
    if path != GENERATE:
        return _openai(path, model, given, whole=True)
    reason, asked = given.reason, given.asked
    made: dict[str, Any] = {
        "text": LETTER * given.tokens,
        "output_ids": [TOKEN_ID] * given.tokens,
        "meta_info": {
            "id": asked.rid,
            "finish_reason": reason,
            "prompt_tokens": asked.prompt_tokens,
            "weight_version": "default",
            "completion_tokens": given.tokens,
            "cached_tokens": 0,
        },
    }
    return made | ({"index": given.index} if batch else {})


def frame(path: str, model: str, given: Given, *, batch: bool) -> bytes:
    """An event of a stream."""
    if path == GENERATE:
        made = answer_object(path, model, given, batch=batch)
    else:
        made = _openai(path, model, given, whole=False)
    return b"data: " + orjson.dumps(made) + b"\n\n"


def error_frame(message: str, status: int) -> bytes:
    """The event with which a stream ends that goes wrong."""
    return b"data: " + orjson.dumps(error_object(message, status)) + b"\n\n" + DONE


def error_object(message: str, status: int) -> dict[str, Any]:
    """How SGLang tells an error."""
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    return {"error": {"object": "error", "message": message, "type": kind, "param": None,
                      "code": status}}  # fmt: skip


def _openai(path: str, model: str, given: Given, *, whole: bool) -> dict[str, Any]:
    asked, reason = given.asked, given.reason
    text = LETTER * (given.tokens if whole else given.tokens - given.told)
    choice: dict[str, Any] = {
        "index": given.index,
        "finish_reason": None if reason is None else reason["type"],
    }
    if path == COMPLETIONS:
        choice["text"] = text
    else:
        choice["message" if whole else "delta"] = {"role": "assistant", "content": text}
    made: dict[str, Any] = {
        "id": asked.rid,
        "object": _KINDS[path][0 if whole else 1],
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
    }
    if whole:
        made["usage"] = {
            "prompt_tokens": asked.prompt_tokens,
            "completion_tokens": given.tokens,
            "total_tokens": asked.prompt_tokens + given.tokens,
        }
    return made
