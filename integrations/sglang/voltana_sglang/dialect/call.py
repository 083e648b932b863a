"""A request to SGLang: its prompts, its ids, and its body for each leg of a try."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from voltana.serving.engine import Call, PromptSize
from voltana.serving.router.bodies import NESTING, parse_object, says_yes
from voltana.serving.router.openai_prompt import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    batch_of,
    chat_size,
    prompt_size,
)
from voltana.serving.router.problem import Problem
from voltana.serving.router.sending import PIECE
from voltana.serving.router.tenants import tenant_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.serving.router.connections import Payload

GENERATE = "/generate"
"""SGLang's own path of requests."""

ROOM_LIMIT = 2**63 - 1

LONGEST_NAME = 8192
"""Characters of a client's id, which each event of a stream carries."""

_OURS = frozenset(
    {
        "rid",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "bootstrap_pair_key",
        "decode_tp_size",
        "http_worker_ipc",
        "encoder_urls",
        "num_items_assigned",
        "need_wait_for_mm_inputs",
        "kv_hints",
        "received_time",
        "background",
    }
)
"""Fields that are the router's to set, or the server's own: where legs meet; which of a server's
processes, by what address, gets the answer; which encoders, by what addresses, have its pictures;
what an orchestrator says of its KV cache; when it came; and that nobody waits for it."""

_NOT_COUNTED = ("audio_data", "video_data")


@dataclass(slots=True, kw_only=True, eq=False)
class SglangCall(Call):
    """A request that has been read.

    Its id is the router's own: SGLang aborts whatever begins with the id that it is told, so that a
    client's would reach other clients' requests. Answers carry the client's (`named`).

    Attributes:
        end: Where the body's last brace is.
        one_by_one: Whether the client gave an id to each prompt of a batch.
        samples: Answers to each prompt.
        logprobs: Whether log-probabilities of the prompt are asked for (``/generate`` alone).
    """

    end: int
    one_by_one: bool
    samples: int
    logprobs: bool

    def leg_body(self, number: int, bootstrap: Bootstrap | None) -> Payload:
        """The body for one or both legs of a try, a long one in parts.

        The fields are spliced in behind the others rather than writing a long prompt again; what a
        client set of them itself was taken out when it was read.

        Args:
            number: Of the try, from 0.
            bootstrap: Where the legs meet; None where one server serves both phases.
        """
        extra: dict[str, Any] = {"rid": id_in_try(self.rid, number)}
        if bootstrap is not None:
            extra |= bootstrap.fields(self.batch)
        tail = orjson.dumps(extra)
        tail = b"," + tail[1:] if self.end > 1 else tail[1:]
        if len(self.raw) <= PIECE:
            return bytes(self.raw[: self.end] + tail)
        return memoryview(self.raw)[: self.end], tail

    def leg_rids(self, number: int) -> Sequence[str]:
        """Ids under which the engine knows a try of the request, to abort it."""
        rid = id_in_try(self.rid, number)
        return (rid,) if self.batch is None else [f"{rid}_{i}" for i in range(self.batch)]

    def named(self, content: bytes) -> bytes:
        """An answer, or whole events of one, with the client's ids instead of the router's."""
        if not self.rids or self.rid.encode() not in content:
            return content
        ids = rb"(?:\d+-)?" + self.rid.encode() + rb"(?:_(\d+))?"
        return re.sub(ids, self._clients_id, content)

    def _clients_id(self, found: re.Match[bytes]) -> bytes:
        index = None if found[1] is None else int(found[1])
        if index is None or not self.one_by_one:
            name = self.rids[0] if index is None else f"{self.rids[0]}_{index}"
        else:
            name = self.rids[index] if index < len(self.rids) else ""
        return orjson.dumps(name)[1:-1]


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


def parse_call(
    path: str, raw: bytes | bytearray, nesting: int = NESTING, tenant_key: str | None = None
) -> SglangCall:
    """Understand a request.

    Args:
        path: Where it was sent.
        raw: Its body.
        nesting: How deep its lists and objects may lie in each other.
        tenant_key: Field that says who it is counted for; None for none.

    Raises:
        Problem: If it is no JSON object, too deep, or its id too long.
    """
    fields = parse_object(raw, nesting)
    batch, size = _prompts(path, fields)
    names = _names(fields.get("rid"))
    if not _OURS.isdisjoint(fields) or not fields:
        raw = orjson.dumps({name: fields[name] for name in fields if name not in _OURS})
    return SglangCall(
        path=path,
        raw=raw,
        end=len(raw.rstrip()) - 1,
        stream=says_yes(fields.get("stream")),
        batch=batch,
        rid=secrets.token_hex(16),
        rids=names,
        one_by_one=isinstance(fields.get("rid"), list),
        size=size,
        tenant=tenant_in(fields, tenant_key),
        samples=_samples(fields),
        logprobs=path == GENERATE and _wanted(fields.get("return_logprob")),
    )


def _names(rid: Any) -> tuple[str, ...]:
    """The client's own ids; none where it gave none, or of another kind.

    Raises:
        Problem: If one is too long.
    """
    if isinstance(rid, str):
        names: tuple[str, ...] = (rid,) if rid else ()
    else:
        names = tuple(map(str, rid)) if isinstance(rid, list) else ()
    if (longest := max(map(len, names), default=0)) > LONGEST_NAME:
        raise Problem(
            400,
            f"rid has {longest} characters: must be at most {LONGEST_NAME}.",
            "invalid_request",
        )
    return names


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
    counts = [_whole(part.get("n")) for part in asked if isinstance(part, dict)]
    return max(counts, default=1)


def _whole(number: Any) -> int:
    """A count as servers read it, who take 2.0 and "2" for 2; 1 for what is none."""
    if isinstance(number, float):
        return int(number)
    if isinstance(number, str) and len(number) < 20 and (digits := number.strip()).isdecimal():
        return int(digits)
    return number if type(number) is int else 1


def _wanted(flag: Any) -> bool:
    return any(flag) if isinstance(flag, list) else bool(flag)
