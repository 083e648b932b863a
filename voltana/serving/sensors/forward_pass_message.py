"""Reads ForwardPassMetrics, one msgpack map an iteration, bounded in every field.

SGLang publishes it from 0.5.12 on, NVIDIA Dynamo for its workers. It is read by the names of its
fields, so that one of another version is read as far as it has them: what is unknown is ignored,
and what is missing is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from voltana.serving.bounds import number, whole
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
"""The version whose fields these are."""

MOST_BYTES = 1 << 16
"""A longer message ends its connection before it is read; real ones have about 500 bytes."""

MOST_COUNT = 2**40
MOST_WALL_S = 3600.0
MOST_VARIANCE = 1e24

_PROMPTS = ("num_prefill_requests", "sum_prefill_tokens")
_DECODES = ("num_decode_requests", "sum_decode_kv_tokens")
_SCHEDULED = (*_PROMPTS, "sum_prefill_kv_tokens", *_DECODES)
_QUEUED = (*_PROMPTS, *_DECODES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPass:
    """One iteration as its engine tells it, after its end.

    Attributes:
        version: Of the message.
        counter: Number of the message at its sender; None where it does not count.
        rank: Its data-parallel rank; None where it does not say.
        wall_s: What the iteration took on the device.
        prompts: Prompts that were worked on.
        prompt_tokens: Their new tokens.
        prefix_tokens: Their tokens before those.
        prompt_variance: Population variance of the prompts' whole lengths.
        load: What was computed.
        waiting_prompts: Requests that wait for their prefill.
        waiting_prompt_tokens: Their tokens.
        waiting_decodes: Requests that wait to be decoded (on).
        waiting_decode_tokens: Tokens of their KV caches.
        missing: Fields that are of use, and not there.
    """

    version: int
    counter: int | None
    rank: int | None = None
    wall_s: float
    prompts: int
    prompt_tokens: int
    prefix_tokens: int
    prompt_variance: float
    load: Load
    waiting_prompts: int
    waiting_prompt_tokens: int
    waiting_decodes: int
    waiting_decode_tokens: int
    missing: tuple[str, ...] = ()

    @property
    def is_heartbeat(self) -> bool:
        """Whether it only says that the engine lives and has nothing to do.

        Data-parallel ranks without requests take steps beside the others: theirs compute nothing.
        """
        return not (self.load.prefill_tokens or self.load.decode_requests)


def parse_forward_pass(raw: bytes) -> ForwardPass:
    """Read a message.

    Raises:
        ValueError: If it has another form, lacks what an iteration cannot be told without, or a
            value is out of its range.
    """
    if len(raw) > MOST_BYTES:
        raise ValueError(f"a message of {len(raw)} bytes: must be at most {MOST_BYTES}")
    try:
        message = msgspec.msgpack.decode(raw)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise ValueError(f"no msgpack: {error!r:.200}") from error
    if not isinstance(message, dict):
        raise ValueError(f"a {type(message).__name__}: must be a map by name")  # noqa: TRY004  (of a message)
    return _read(message)


def _read(message: dict[Any, Any]) -> ForwardPass:
    scheduled = _table(message, "scheduled_requests")
    queued = _table(message, "queued_requests") if "queued_requests" in message else {}
    version = whole("version", message.get("version", 0), most=MOST_COUNT)
    lacking = [f"scheduled_requests.{name}" for name in _SCHEDULED if name not in scheduled]
    lacking += [] if "wall_time" in message else ["wall_time"]
    if lacking:
        raise ValueError(
            f"{', '.join(lacking)} missing in a message of version {version}: must be there "
            f"(version {VERSION} has them)"
        )
    prompts, new, old, decodes, kv = (_count(scheduled, name) for name in _SCHEDULED)
    _check_sums(prompts, new, old)
    _check_sums(decodes, kv, 0)
    if decodes > kv:
        raise ValueError(
            f"num_decode_requests = {decodes} with sum_decode_kv_tokens = {kv}: must be at most "
            "that, for each request has a token"
        )
    waiting = [_count(queued, name) if name in queued else 0 for name in _QUEUED]
    variance = number(
        "var_prefill_length", scheduled.get("var_prefill_length", 0.0), most=MOST_VARIANCE
    )
    return ForwardPass(
        version=version,
        counter=_optional(message, "counter_id"),
        rank=_optional(message, "dp_rank"),
        wall_s=number("wall_time", message["wall_time"], most=MOST_WALL_S),
        prompts=prompts,
        prompt_tokens=new,
        prefix_tokens=old,
        prompt_variance=variance,
        load=Load(
            prefill_tokens=new,
            prefill_attended_pairs=attended_pairs_of(prompts, new, old, variance),
            decode_requests=decodes,
            decode_kv_tokens=kv,
        ),
        waiting_prompts=waiting[0],
        waiting_prompt_tokens=waiting[1],
        waiting_decodes=waiting[2],
        waiting_decode_tokens=waiting[3],
        missing=_missing(message, scheduled, queued),
    )


def attended_pairs_of(prompts: int, new: int, old: int, variance: float) -> float:
    """Query-key pairs of prompts of which only sums and a variance are told.

    A prompt of length L with P tokens computed before has ``(L**2 + L - P**2 - P) / 2`` pairs. The
    lengths' sum of squares follows from their variance; prefixes are taken to be alike, and a
    prompt that is cut to be computed up to its end. It is exact for one prompt, and for prompts
    that are whole and have no prefix.

    Args:
        prompts: How many.
        new: Their tokens in this iteration.
        old: Their tokens before.
        variance: Population variance of their lengths.
    """
    if not new:
        return 0.0
    count = max(prompts, 1)
    total = new + old
    squares = total**2 / count + (count * variance if count > 1 else 0.0)
    pairs = (squares - old**2 / count + new) / 2
    # No fewer than if all were alike, and no more than if one had everything.
    alike = new * old / count + (new * new / count + new) / 2
    return float(min(max(pairs, alike), new * old + new * (new + 1) / 2))


def _table(message: Mapping[Any, Any], name: str) -> dict[Any, Any]:
    if name not in message:
        raise ValueError(f"{name} missing: must be there")
    table = message[name]
    if not isinstance(table, dict):
        raise ValueError(f"{name} is a {type(table).__name__}: must be a map")  # noqa: TRY004  (of a message)
    return table


def _count(table: Mapping[Any, Any], name: str) -> int:
    return whole(name, table[name], most=MOST_COUNT)


def _check_sums(requests: int, tokens: int, prefix: int) -> None:
    """Check that tokens are somebody's; what is not would be learned from.

    Raises:
        ValueError: If they are nobody's.
    """
    if not requests and (tokens or prefix):
        raise ValueError(f"{tokens + prefix} tokens of no request: must be none")


def _optional(message: Mapping[Any, Any], name: str) -> int | None:
    value = message.get(name)
    return None if value is None else whole(name, value, most=2**63)


def _missing(
    message: Mapping[Any, Any], scheduled: Mapping[Any, Any], queued: Mapping[Any, Any]
) -> tuple[str, ...]:
    """Names of what is of use and not there."""
    found = [] if message.get("counter_id") is not None else ["counter_id"]
    found += [] if "var_prefill_length" in scheduled else ["scheduled_requests.var_prefill_length"]
    return (*found, *(f"queued_requests.{name}" for name in _QUEUED if name not in queued))
