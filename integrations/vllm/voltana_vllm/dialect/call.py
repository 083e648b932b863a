"""A request to vLLM: its prompts, its id, and its body for each leg of a try."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from voltana.serving.engine import Call
from voltana.serving.router.bodies import NESTING, parse_object, says_yes
from voltana.serving.router.openai_prompt import (
    CHAT_COMPLETIONS,
    batch_of,
    chat_size,
    prompt_size,
)
from voltana.serving.router.problem import Problem
from voltana.serving.router.sending import PIECE
from voltana.serving.router.tenants import tenant_in
from voltana_ring.scheduled import NAME_PREFIX
from voltana_vllm.dialect.unpaired import lacking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.serving.router.connections import Payload
    from voltana.serving.router.pool import Backend

ID_HEADER = "X-Request-Id"
"""Under which vLLM takes a request's id, before that of the body."""

LONGEST_NAME = 8192
"""Characters of a client's id, which each event of a stream carries."""

_OURS = frozenset({"kv_transfer_params", "ec_transfer_params", "request_id"})
"""Fields that are the router's to set: from whose memory a server fetches what."""

_BY_LEG = frozenset(
    {
        "ignore_eos",
        "max_completion_tokens",
        "max_tokens",
        "min_tokens",
        "n",
        "stop",
        "stop_token_ids",
        "stream",
        "stream_options",
    }
)
"""Fields that a prefill leg has otherwise; they are kept apart, so that none stands twice."""

_EXTRA = "vllm_xargs"
"""Further arguments, among which a server would find ours as well."""

ASKS_TO_KEEP: dict[str, Any] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
"""Tells a prefill server to keep the KV cache for another, and to say how to fetch it."""

_NUMBERS = 1 << 64
_NEXT_TRY = 1 << 40
"""From the number of a try to that of the next; those of its prompts lie between."""


@dataclass(slots=True, kw_only=True, eq=False)
class VllmCall(Call):
    """A request that has been read.

    Attributes:
        end: Where the body's last brace is; the body is without `own`.
        own: What of the body legs have differently.
        samples: Answers to each prompt, counting those that are only compared.
        unpaired: What it asks for that no pair can answer; see `dialect.unpaired`.
        held: By the number of a try, what its prefill server keeps and nobody has fetched.
        doubted: The prefill server of a try that a decode server refused.
    """

    end: int
    own: dict[str, Any]
    samples: int
    unpaired: str = ""
    held: dict[int, dict[str, Any]] = field(default_factory=dict)
    doubted: Backend | None = None

    def body(self, **changes: Any) -> Payload:
        """The body for a server that decodes, a long one in parts."""
        return self._with(self.own | changes)

    def prefill_body(self) -> Payload:
        """The body for a prefill server: one token, in one piece, and the KV cache is kept.

        Whatever that token is: connectors hand over the caches of requests that ended by their
        length, few those of such that were stopped. What it says the decode server decides.
        """
        own: dict[str, Any] = {"max_tokens": 1, "stream": False, "ignore_eos": True}
        if "max_completion_tokens" in self.own:
            own["max_completion_tokens"] = 1
        return self._with(own | {"kv_transfer_params": ASKS_TO_KEEP})

    def number(self, attempt: int) -> int:
        """By which agents name a try of it, or its first prompt, in their reports."""
        return (int(self.rid[:16], 16) + attempt * _NEXT_TRY) % _NUMBERS

    def marks(self, attempt: int) -> tuple[int, ...]:
        """The numbers of all its prompts."""
        first = self.number(attempt)
        return tuple((first + index) % _NUMBERS for index in range(self.batch or 1))

    def name(self, attempt: int) -> str:
        """Its id on servers: never the client's, which might be another's as well."""
        return f"{NAME_PREFIX}{self.number(attempt):016x}{self.rid[16:]}"

    def named(self, content: bytes, attempt: int, clients: str) -> bytes:
        """An answer, or whole events of one, with the client's id; without one ours stays."""
        if not clients:
            return content
        return content.replace(self.name(attempt).encode(), orjson.dumps(clients)[1:-1])

    def _with(self, fields: dict[str, Any]) -> Payload:
        tail = orjson.dumps(fields)
        tail = b"," + tail[1:] if self.end > 1 and fields else tail[1:]
        if len(self.raw) <= PIECE:
            return bytes(self.raw[: self.end] + tail)
        return memoryview(self.raw)[: self.end], tail


def parse_call(
    path: str, raw: bytes | bytearray, nesting: int = NESTING, tenant_key: str | None = None
) -> VllmCall:
    """Understand a request.

    Args:
        path: Where it was sent.
        raw: Its body.
        nesting: How deep its lists and objects may lie in each other.
        tenant_key: Field that says who it is counted for; None for none.

    Raises:
        Problem: If it is no JSON object, or too deep.
    """
    fields = parse_object(raw, nesting)
    chat = path == CHAT_COMPLETIONS
    prompt = fields.get("prompt")
    own = {name: fields[name] for name in _BY_LEG if name in fields}
    kept = {name: fields[name] for name in fields if name not in _OURS | _BY_LEG}
    if isinstance(extra := kept.get(_EXTRA), dict):
        kept[_EXTRA] = {name: extra[name] for name in extra if name not in _OURS}
    body = orjson.dumps(kept)
    return VllmCall(
        path=path,
        raw=body,
        end=len(body) - 1,
        own=own,
        stream=says_yes(fields.get("stream")),
        batch=None if chat else batch_of(prompt),
        rid=secrets.token_hex(16),
        size=chat_size(fields) if chat else prompt_size(prompt),
        tenant=tenant_in(fields, tenant_key),
        samples=max(_whole(fields.get("n")), _whole(fields.get("best_of"))),
        unpaired=lacking(fields, chat=chat),
    )


def clients_id(headers: Mapping[str, str]) -> str:
    """The id that a client gave its request; empty if it gave none.

    Raises:
        Problem: If it is too long, or no text.
    """
    found = next((v for k, v in headers.items() if k.lower() == ID_HEADER.lower()), "")
    try:
        found.encode()
    except UnicodeEncodeError:  # no answer can carry it, in the middle of a stream as little
        raise Problem(
            400, f"{ID_HEADER} is no text: must be UTF-8. Send another one.", "invalid_request"
        ) from None
    if len(found) > LONGEST_NAME:
        raise Problem(
            400,
            f"{ID_HEADER} has {len(found)} characters: must be at most {LONGEST_NAME}.",
            "invalid_request",
        )
    return found


def under(name: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The client's headers, with our id in place of its own."""
    kept = {k: v for k, v in headers.items() if k.lower() != ID_HEADER.lower()}
    return kept | {ID_HEADER: name}


def _whole(number: Any) -> int:
    """A count as servers read it, who take 2.0 and "2" for 2; 1 for what is none."""
    if isinstance(number, str) and len(number) < 20 and number.strip().isdecimal():
        return int(number)
    return int(number) if isinstance(number, int | float) and abs(number) < 1e9 else 1
