"""One request of a client, as far as a router must understand it."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from voltana.serving.router.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOM_LIMIT = 2**63 - 1
_BRACE = ord("}")

_INJECTED = frozenset({"bootstrap_host", "bootstrap_port", "bootstrap_room"})


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """A parsed request.

    Attributes:
        path: Where it was sent.
        raw: Its body.
        fields: The same, parsed; must not be changed.
        stream: Whether the answer is a stream of events.
        batch: Prompts, if it is a batch; None if it is a single request.
        rid: Request id, the client's own if it gave one.
        own_rid: Whether the client gave one of any form.
        settable: Whether the id may be set; ids of a batch, and mistakes, stay as they are.
        rids: The client's own ids of a batch; empty otherwise.
        prompt_tokens: Length of all prompts where it is known exactly, else -1.
        prompt_bytes: Bytes of text in all prompts.
        samples: Answers to each prompt.
        logprobs: Whether log-probabilities of the prompt are asked for (``/generate`` alone).
    """

    path: str
    raw: bytes
    fields: dict[str, Any]
    stream: bool
    batch: int | None
    rid: str
    own_rid: bool
    settable: bool
    rids: tuple[str, ...]
    prompt_tokens: int
    prompt_bytes: int
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

    def is_known_as(self, rid: str) -> bool:
        """Whether a client means this request by an id."""
        return rid == self.rid or rid in self.rids


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


def parse_call(path: str, raw: bytes) -> Call:
    """Understand a request.

    Raises:
        Problem: If it is no JSON object.
    """
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is not valid JSON: {error}.", "invalid_json") from None
    if not isinstance(fields, dict):
        raise Problem(
            400, f"the body is a JSON {type(fields).__name__}: must be an object.", "invalid_json"
        )
    prompt = _prompt(path, fields)
    batch = _batch(prompt) if path != "/v1/chat/completions" else None
    tokens, size = _length(prompt)
    rid = fields.get("rid")
    named = isinstance(rid, str) and bool(rid)
    return Call(
        path=path,
        raw=raw,
        fields=fields,
        stream=fields.get("stream") is True,
        batch=batch,
        rid=rid if isinstance(rid, str) and rid else uuid.uuid4().hex,
        own_rid="rid" in fields,
        settable=named or rid is None,
        rids=tuple(map(str, rid)) if isinstance(rid, list) else (),
        prompt_tokens=tokens,
        prompt_bytes=size,
        samples=_samples(fields),
        logprobs=path == "/generate" and _wanted(fields.get("return_logprob")),
    )


def _prompt(path: str, fields: dict[str, Any]) -> Any:
    if path == "/v1/chat/completions":
        return fields.get("messages")
    if path == "/v1/completions":
        return fields.get("prompt")
    text = fields.get("text")
    return text if text is not None else fields.get("input_ids")


def _batch(prompt: Any) -> int | None:
    """How many prompts a list is; a list of numbers is one prompt of token ids."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        return len(prompt)
    return None


def _length(prompt: Any) -> tuple[int, int]:
    """Tokens if they are given as such (else -1), and bytes of text."""
    if isinstance(prompt, list) and prompt:
        if isinstance(prompt[0], int):
            return len(prompt), 0
        if isinstance(prompt[0], list):
            return sum(len(p) for p in prompt if isinstance(p, list)), 0
    return -1, _text_bytes(prompt)


def _text_bytes(part: Any) -> int:
    """Bytes of text in a prompt, in messages, or in the parts of a message; not of images."""
    if isinstance(part, str):
        # The UTF-8 length of an ASCII text is its length, without a copy.
        return len(part) if part.isascii() else len(part.encode("utf-8", "replace"))
    if isinstance(part, list):
        return sum(_text_bytes(p) for p in part)
    if isinstance(part, dict):
        return _text_bytes(part.get("content")) + _text_bytes(part.get("text"))
    return 0


def _samples(fields: dict[str, Any]) -> int:
    params = fields.get("sampling_params")
    asked = [fields, *(params if isinstance(params, list) else [params])]
    counts = [part.get("n") for part in asked if isinstance(part, dict)]
    return max((count for count in counts if isinstance(count, int)), default=1)


def _wanted(flag: Any) -> bool:
    return any(flag) if isinstance(flag, list) else bool(flag)
