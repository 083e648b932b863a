"""A request to SGLang: its prompts, its ids, and its body for each leg of a try."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from voltana.serving.engine import Call, PromptSize
from voltana.serving.router.bodies import parse_object
from voltana.serving.router.openai_prompt import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    batch_of,
    chat_size,
    prompt_size,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

GENERATE = "/generate"
"""SGLang's own path of requests."""

ROOM_LIMIT = 2**63 - 1

_INJECTED = frozenset({"bootstrap_host", "bootstrap_port", "bootstrap_room"})
_NOT_COUNTED = ("audio_data", "video_data")


@dataclass(slots=True, kw_only=True, eq=False)
class SglangCall(Call):
    """A parsed request.

    Attributes:
        fields: The body, parsed; must not be changed.
        own_rid: Whether the client gave an id of any form.
        settable: Whether the id may be set; ids of a batch, and mistakes, stay as they are.
        samples: Answers to each prompt.
        logprobs: Whether log-probabilities of the prompt are asked for (``/generate`` alone).
    """

    fields: dict[str, Any]
    own_rid: bool
    settable: bool
    samples: int
    logprobs: bool

    def leg_body(self, number: int, bootstrap: Bootstrap | None) -> bytes:
        """The body for one or both legs of a try.

        The fields are spliced in behind the others rather than serialising a long prompt again;
        a client that set one of them itself has its own replaced.

        Args:
            number: Of the try, from 0.
            bootstrap: Where the legs meet; None where one server serves both phases.
        """
        extra: dict[str, Any] = {"rid": id_in_try(self.rid, number)} if self.settable else {}
        if self.rids and number:
            extra["rid"] = [id_in_try(rid, number) for rid in self.rids]
        if bootstrap is not None:
            extra |= bootstrap.fields(self.batch)
        if not extra:
            return self.raw
        if self.own_rid or not _INJECTED.isdisjoint(self.fields) or not self.fields:
            return orjson.dumps(self.fields | extra)
        # A body that parsed as an object ends with its brace, up to white space.
        head = self.raw.rstrip()
        return head[:-1] + b"," + orjson.dumps(extra)[1:]

    def leg_rids(self, number: int) -> Sequence[str]:
        """Ids under which the engine knows a try of the request, to abort it."""
        if self.rids:
            return [id_in_try(rid, number) for rid in self.rids]
        rid = id_in_try(self.rid, number)
        return (rid,) if self.batch is None else [f"{rid}_{i}" for i in range(self.batch)]


def id_in_try(rid: str, number: int) -> str:
    """The id of a request in one of its tries.

    A server may still be at work on the try before, and refuses an id that it knows. And it aborts
    whatever begins with the id that it is told, so that what tells tries apart comes first.
    """
    return rid if number == 0 else f"{number}-{rid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Where the decode server fetches the KV cache.

    Attributes:
        host: Host of the prefill server.
        port: Its bootstrap port.
        rooms: One number for each prompt, unused by any other request.
    """

    host: str
    port: int
    rooms: tuple[int, ...]

    @classmethod
    def draw(cls, host: str, port: int, batch: int | None) -> Bootstrap:
        """Rooms at random; 63 bits make a collision as good as impossible."""
        count = 1 if batch is None else batch
        return cls(
            host=host, port=port, rooms=tuple(secrets.randbelow(ROOM_LIMIT) for _ in range(count))
        )

    def fields(self, batch: int | None) -> dict[str, Any]:
        """As SGLang wants them: lists for a batch."""
        if batch is None:
            return {
                "bootstrap_host": self.host,
                "bootstrap_port": self.port,
                "bootstrap_room": self.rooms[0],
            }
        return {
            "bootstrap_host": [self.host] * batch,
            "bootstrap_port": [self.port] * batch,
            "bootstrap_room": list(self.rooms),
        }


def parse_call(path: str, raw: bytes) -> SglangCall:
    """Understand a request.

    Raises:
        Problem: If it is no JSON object.
    """
    fields = parse_object(raw)
    batch, size = _prompts(path, fields)
    rid = fields.get("rid")
    named = isinstance(rid, str) and bool(rid)
    return SglangCall(
        path=path,
        raw=raw,
        fields=fields,
        stream=fields.get("stream") is True,
        batch=batch,
        rid=rid if isinstance(rid, str) and rid else uuid.uuid4().hex,
        own_rid="rid" in fields,
        settable=named or rid is None,
        rids=tuple(map(str, rid)) if isinstance(rid, list) else (),
        size=size,
        samples=_samples(fields),
        logprobs=path == GENERATE and _wanted(fields.get("return_logprob")),
    )


def _prompts(path: str, fields: dict[str, Any]) -> tuple[int | None, PromptSize]:
    """How many prompts a batch is (None for a single one), and the length of all."""
    if path == CHAT_COMPLETIONS:
        return None, chat_size(fields)
    if path == COMPLETIONS:
        prompt = fields.get("prompt")
        return batch_of(prompt), prompt_size(prompt)
    text, ids = fields.get("text"), fields.get("input_ids")
    prompt = text if text is not None else ids
    if prompt is None and (embeds := fields.get("input_embeds")):
        return _embedded(embeds)
    size = prompt_size(prompt)
    pictures = _pictures(fields.get("image_data"))
    whole = all(fields.get(name) is None for name in _NOT_COUNTED)
    if pictures or not whole:
        size = PromptSize(
            tokens=size.tokens, text_bytes=size.text_bytes, pictures=pictures, whole=whole
        )
    return batch_of(prompt), size


def _embedded(embeds: Any) -> tuple[int | None, PromptSize]:
    """A vector for each token, or a list of such prompts."""
    if not isinstance(embeds, list) or not isinstance(embeds[0], list):
        return None, PromptSize(whole=False)
    if embeds[0] and isinstance(embeds[0][0], list):
        return len(embeds), PromptSize(tokens=sum(len(p) for p in embeds if isinstance(p, list)))
    return None, PromptSize(tokens=len(embeds))


def _pictures(data: Any) -> int:
    """One, or a list of them, or of such lists."""
    if isinstance(data, list):
        return sum(map(_pictures, data))
    return 0 if data is None else 1


def _samples(fields: dict[str, Any]) -> int:
    params = fields.get("sampling_params")
    asked = [fields, *(params if isinstance(params, list) else [params])]
    counts = [part.get("n") for part in asked if isinstance(part, dict)]
    return max((count for count in counts if isinstance(count, int)), default=1)


def _wanted(flag: Any) -> bool:
    return any(flag) if isinstance(flag, list) else bool(flag)
