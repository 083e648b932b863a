"""What clients ask a virtual SGLang: prompts by their length, and how many tokens of an answer."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from voltana.serving.router.bodies import says_yes

GENERATE, COMPLETIONS, CHAT = "/generate", "/v1/completions", "/v1/chat/completions"

BYTES_PER_TOKEN = 4
"""Of English text, about; a virtual engine has no tokenizer."""

DEFAULT_TOKENS = {GENERATE: 128, COMPLETIONS: 16, CHAT: 128}


class RefusedError(Exception):
    """A request that SGLang answers with status 400, too; its text is the answer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One prompt.

    Attributes:
        rid: Its id.
        prompt_tokens: Its length.
        output_tokens: Tokens that it is to be answered with.
        room: Where prefill and decode meet; None where they do not.
        bootstrap: Host and port of the prefill server's door.
    """

    rid: str
    prompt_tokens: int
    output_tokens: int
    room: int | None
    bootstrap: tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A request.

    Attributes:
        prompts: Its prompts.
        batch: Whether the answer is a list.
        stream: Whether it is a stream of events.
    """

    prompts: tuple[Asked, ...]
    batch: bool
    stream: bool


def read_body(path: str, fields: Any) -> Body:
    """Understand a request.

    Raises:
        RefusedError: If it is none.
    """
    if not isinstance(fields, dict):
        raise RefusedError("the body must be a JSON object")
    prompt = _prompt(path, fields)
    batch = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    prompts = prompt if batch else [prompt]
    count = len(prompts)
    rids = _each(fields.get("rid"), count, batch=batch)
    rooms = _each(fields.get("bootstrap_room"), count, batch=batch)
    hosts = _each(fields.get("bootstrap_host"), count, batch=batch)
    ports = _each(fields.get("bootstrap_port"), count, batch=batch)
    wanted = [_wanted(path, fields, index) for index in range(count)]
    return Body(
        prompts=tuple(
            Asked(
                rid=_rid(rids[index], index, batch=batch),
                prompt_tokens=_length(prompts[index]),
                output_tokens=wanted[index],
                room=rooms[index],
                bootstrap=(str(hosts[index] or "127.0.0.1"), int(ports[index] or 0)),
            )
            for index in range(count)
        ),
        batch=batch,
        stream=says_yes(fields.get("stream")),
    )


def _prompt(path: str, fields: dict[str, Any]) -> Any:
    if path == CHAT:
        messages = fields.get("messages")
        if not isinstance(messages, list) or not messages:
            raise RefusedError("messages must be a list of messages")
        parts = [m.get("content") for m in messages if isinstance(m, dict)]
        return "".join(part for part in parts if isinstance(part, str)) or " "
    prompt = fields.get("prompt") if path == COMPLETIONS else fields.get("text")
    if prompt is None and path == GENERATE:
        prompt = fields.get("input_ids")
    if not isinstance(prompt, (str, list)) or not prompt:
        raise RefusedError("Either text, input_ids or input_embeds should be provided.")
    return prompt


def _length(prompt: Any) -> int:
    if isinstance(prompt, str):
        return max(1, -(-len(prompt.encode()) // BYTES_PER_TOKEN))
    if not isinstance(prompt, list) or not prompt:
        raise RefusedError("a prompt must be a text or a list of token ids")
    return len(prompt)


def _wanted(path: str, fields: dict[str, Any], index: int) -> int:
    if path != GENERATE:
        given = fields.get("max_completion_tokens") or fields.get("max_tokens")
    else:
        params = fields.get("sampling_params") or {}
        params = params[index] if isinstance(params, list) and index < len(params) else params
        given = params.get("max_new_tokens") if isinstance(params, dict) else None
    tokens = DEFAULT_TOKENS[path] if given is None else given
    if type(tokens) is not int or tokens < 0:
        raise RefusedError(f"max_new_tokens must be at least 0, got {tokens}.")
    return max(tokens, 1)


def _each(value: Any, count: int, *, batch: bool) -> list[Any]:
    """A field of every prompt: a batch has a list of them, or one for all."""
    if batch and isinstance(value, list):
        if len(value) != count:
            raise RefusedError(f"a list of {count} prompts has a field of {len(value)} values")
        return value
    return [value] * count


def _rid(given: Any, index: int, *, batch: bool) -> str:
    if not isinstance(given, str) or not given:
        return uuid.uuid4().hex
    return f"{given}_{index}" if batch else given
