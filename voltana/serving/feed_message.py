"""What an agent says on its feed, and how a router reads it: bounded in every field.

Nothing in a message is believed to be what it should be. What is not is an error of that message.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import msgspec

from voltana.cluster.context import LIMITS_UNKNOWN, NO_LIMIT, EngineLimits
from voltana.serving.bounds import MOST_MHZ, count, number, whole
from voltana.values import InstanceState, IntendedDemand
from voltana_ring.paths import INSTANCE_NAME

VERSION = 1
"""Of the wire format; messages of another are ignored."""

MOST_BYTES = 1 << 19
"""A longer message ends its connection before it is read."""

MOST_LEVELS = 4096
LOOKED_AT = 256
"""Twice as many as boards have. Routers look at each level of each instance for each request; of
more levels they see every n-th."""

MOST_ROOMS = 1 << 16
_WORD = (1 << 64) - 1

_COUNTS = ("running_requests", "kv_tokens", "queued_requests", "queued_tokens")
STATE_FIELDS = (*_COUNTS, "clock_mhz", "oldest_wait_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFacts:
    """What of an instance changes seldom, as it came: `InstanceFacts` with encoded models.

    Attributes:
        levels_mhz: Clocks that its controller may choose.
        limits: What its engine takes at once.
        snapshot: Encoded latency model; None where it has none that can be sent.
        power: Encoded power model, likewise.
        ttft_s: What a first token may take; inf where an older agent does not say.
    """

    levels_mhz: tuple[float, ...]
    limits: EngineLimits
    snapshot: Any
    power: Any
    ttft_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedMessage:
    """One message.

    Attributes:
        instance: Who sends it.
        state: Its state.
        age_s: Age of the state when it was sent.
        budget_s: Latency budget of one iteration.
        facts: What changes seldom; None if it came before and stands.
        rooms: Bootstrap rooms of requests that it took up since the last message.
        names_waiting: Whether it names a prefill request as soon as that waits in its scheduler,
            so that one whose room was not named is not there yet.
        energy_j: Energy of its GPUs since it began; None where it is not told.
    """

    instance: str
    state: InstanceState
    age_s: float
    budget_s: float
    facts: SentFacts | None
    rooms: tuple[int, ...]
    names_waiting: bool = False
    energy_j: float | None = None


def pack_intended(demand: IntendedDemand) -> bytes:
    """What a router says to an agent, on the way back of its feed."""
    return b"i" + msgspec.msgpack.encode([VERSION, demand.pool_per_s, demand.share, demand.held_s])


def parse_intended(raw: bytes) -> IntendedDemand | None:
    """Read what came back on a feed; None if it is none, or of another version.

    Raises:
        ValueError: If it has another form, or a value is out of its range.
    """
    if not raw.startswith(b"i"):
        return None
    try:
        version, *values = msgspec.msgpack.decode(raw[1:])
        if version != VERSION:
            return None
        pool_per_s, share, held_s = values
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"unknown form of what a router intends: {error!r:.200}") from error
    return IntendedDemand(
        pool_per_s=number("pool_per_s", pool_per_s),
        share=number("share", share, most=1.0),
        held_s=number("held_s", held_s),
    )


def parse_message(raw: bytes) -> FeedMessage | None:
    """Read a message; None if it is of another version.

    Raises:
        ValueError: If it has another form, or a value is out of its range.
    """
    if len(raw) > MOST_BYTES:
        raise ValueError(f"a feed message of {len(raw)} bytes: must be at most {MOST_BYTES}")
    try:
        message = msgspec.msgpack.decode(raw)
        if message["v"] != VERSION:
            return None
        return FeedMessage(
            instance=_name_in(message["instance"]),
            state=_state_in(message),
            age_s=number("age_s", message["age_s"]),
            budget_s=number("budget_s", message["budget_s"], infinite=True),
            facts=_facts_in(message),
            rooms=_rooms_in(message.get("rooms", [])),
            names_waiting=message.get("names_waiting") is True,
            energy_j=_energy_in(message),
        )
    # A message nested thousands deep must not end who listens.
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"unknown form of a feed message: {error!r:.200}") from error


def _name_in(value: Any) -> str:
    if isinstance(value, str) and INSTANCE_NAME.fullmatch(value):
        return value
    raise ValueError(f"instance = {value!r:.80} in a feed message: must be an instance's name")


def _state_in(message: dict[str, Any]) -> InstanceState:
    """The state in a message, with what older agents do not say: routers add its numbers."""
    told = dict(zip(STATE_FIELDS, message["state"], strict=True))
    for name in _COUNTS:  # a part of a request would have a context without an end
        told[name] = count(name, told[name])
    number("clock_mhz", told["clock_mhz"], most=MOST_MHZ, unknown=True)
    number("oldest_wait_s", told["oldest_wait_s"])
    demand_per_s = message.get("demand_per_s")
    computing_tokens, computing_for_s = _computing_in(message)
    return InstanceState(
        **told,
        demand_per_s=None if demand_per_s is None else number("demand_per_s", demand_per_s),
        ttft_margin=number("ttft_margin", message.get("ttft_margin", 0.0), most=1.0),
        computing_tokens=min(computing_tokens, told["queued_tokens"]),
        computing_for_s=computing_for_s,
    )


def _computing_in(message: dict[str, Any]) -> tuple[int, float]:
    """Tokens of a prefill batch that runs, and for how long it has; older agents do not say."""
    values = message.get("computing", [0, 0.0])
    if not isinstance(values, list) or len(values) != 2:
        raise ValueError("computing in a feed message: must be a list of tokens and seconds")
    return count("computing_tokens", values[0]), number("computing_for_s", values[1])


def _rooms_in(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) > MOST_ROOMS:
        raise ValueError(f"rooms in a feed message: must be a list of at most {MOST_ROOMS}")
    return tuple(whole("rooms", room, most=_WORD) for room in values)


def _energy_in(message: dict[str, Any]) -> float | None:
    """The energy in a message, where its agent tells it."""
    value = message.get("energy_j")
    return None if value is None else number("energy_j", value)


def _facts_in(message: dict[str, Any]) -> SentFacts | None:
    """What changes seldom, if it is in a message; older agents say less of it."""
    levels = message.get("levels_mhz")
    if levels is None:
        return None
    if not isinstance(levels, list) or len(levels) > MOST_LEVELS:
        raise ValueError(f"levels_mhz in a feed message: must be a list of at most {MOST_LEVELS}")
    levels_mhz = tuple(number("levels_mhz", mhz, 1e-3, MOST_MHZ) for mhz in levels)
    if any(below >= above for below, above in pairwise(levels_mhz)):
        raise ValueError("levels_mhz in a feed message: must ascend")
    return SentFacts(
        levels_mhz=_thinned(levels_mhz),
        limits=_limits_in(message),
        snapshot=message.get("snapshot"),
        power=message.get("power"),
        ttft_s=number("ttft_s", message.get("ttft_s", math.inf), infinite=True),
    )


def pack_limits(limits: EngineLimits) -> dict[str, float]:
    """What an engine takes at once, as fields of a message."""
    return {name: float(value) for name, value in asdict(limits).items()}


def _limits_in(message: dict[str, Any]) -> EngineLimits:
    """What an engine takes at once; older agents do not say all of it."""
    usual = pack_limits(LIMITS_UNKNOWN)

    def told(name: str, least: float = 0.0, *, infinite: bool = True) -> float:
        return number(name, message.get(name, usual[name]), least, infinite=infinite)

    return EngineLimits(
        max_batch_tokens=int(min(told("max_batch_tokens", 1.0), NO_LIMIT)),
        max_running_requests=int(min(told("max_running_requests", 1.0), NO_LIMIT)),
        kv_capacity_tokens=told("kv_capacity_tokens", 1.0),
        kv_reserved_tokens=told("kv_reserved_tokens", infinite=False),
        prompts_first=told("prompts_first") > 0.0,
    )


def _thinned(levels_mhz: tuple[float, ...]) -> tuple[float, ...]:
    """So many levels as routers look at, evenly chosen, the last one always among them."""
    step = max(1, -(-len(levels_mhz) // LOOKED_AT))
    return levels_mhz[::-step][::-1]
