"""What an engine takes at once, from its agent to a router: as it is, or refused with its name."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.cluster.context import LIMITS_UNKNOWN, NO_LIMIT, EngineLimits, limits_together
from voltana.serving.agent.building import engine_limits, unknown_limits
from voltana.serving.config_tables import EngineTable
from voltana.serving.feed_message import SentFacts, pack_limits, parse_message

LIMITS = st.builds(
    EngineLimits,
    max_batch_tokens=st.integers(1, NO_LIMIT),
    max_running_requests=st.integers(1, NO_LIMIT),
    kv_capacity_tokens=st.floats(1.0, 1e12) | st.just(math.inf),
    kv_reserved_tokens=st.floats(0.0, 1e12),
    prompts_first=st.booleans(),
)
SAID = ("max_prefill_tokens", "max_running_requests", "kv_capacity_tokens", "kv_reserved_tokens")
FORGED = [-1, -math.inf, math.nan, True, "8", None, [8], 10**400, -0.5]


def sent(limits: dict[str, Any]) -> SentFacts:
    """What a router makes of a message with these fields."""
    message = {
        "v": 1, "instance": "decode-0", "state": [1, 1, 0, 0, 1200.0, 0.0], "age_s": 0.0,
        "budget_s": 0.06, "levels_mhz": [1410.0], **limits,
    }  # fmt: skip
    parsed = parse_message(msgspec.msgpack.encode(message))
    assert parsed is not None
    assert parsed.facts is not None
    return parsed.facts


@given(LIMITS)
def test_limits_arrive_as_they_were_sent(limits: EngineLimits) -> None:
    assert sent(pack_limits(limits)).limits == limits


def test_older_agents_say_less_and_are_understood() -> None:
    """Those before limits of the memory, and those before limits of what is computed at once."""
    assert (sent({}).limits, sent({}).ttft_s) == (LIMITS_UNKNOWN, math.inf)
    old = sent({"kv_capacity_tokens": 9e5, "kv_reserved_tokens": 512.0}).limits
    assert (old.kv_capacity_tokens, old.kv_reserved_tokens) == (9e5, 512.0)
    assert (old.max_batch_tokens, old.max_running_requests) == (NO_LIMIT, NO_LIMIT)
    unlimited = sent({"max_running_requests": math.inf, "max_batch_tokens": math.inf}).limits
    assert unlimited == LIMITS_UNKNOWN


@pytest.mark.parametrize("name", pack_limits(LIMITS_UNKNOWN))
@pytest.mark.parametrize("forged", FORGED, ids=lambda value: repr(value)[:8])
def test_a_forged_limit_is_refused_by_its_name(name: str, forged: Any) -> None:
    if isinstance(forged, int) and forged > 2**64:
        pytest.skip("no message can hold it")
    with pytest.raises(ValueError, match=name):
        sent({name: forged})


@pytest.mark.parametrize("name", ["max_batch_tokens", "max_running_requests", "kv_capacity_tokens"])
def test_no_engine_holds_nothing(name: str) -> None:
    """Of a KV cache of no tokens a planner of routers took a share: a division by zero."""
    with pytest.raises(ValueError, match=f"{name} = 0"):
        sent({name: 0.0})


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("odd", [*FORGED, math.inf])
def test_a_limit_that_no_engine_can_mean_counts_as_not_said(name: str, odd: Any) -> None:
    """SGLang and vLLM have settings of which -1 means "none"; no batch holds -1 requests."""
    limits = engine_limits(EngineTable(), {name: odd})
    assert limits == EngineLimits()
    listed = name if name != "max_prefill_tokens" else "max_running_requests"
    assert listed in unknown_limits(EngineTable(), {name: odd})
    table = EngineTable(max_batch_tokens=512, max_running_requests=8)
    assert engine_limits(table, {name: odd}).max_running_requests == 8
    assert sent(pack_limits(engine_limits(table, {name: odd}))).limits.max_batch_tokens == 512


@given(st.lists(LIMITS, min_size=1, max_size=9))
def test_ranks_have_places_and_memory_together_and_a_message_holds_them(
    ranks: list[EngineLimits],
) -> None:
    together = limits_together(ranks)
    assert together.max_running_requests >= max(one.max_running_requests for one in ranks)
    assert together.kv_capacity_tokens >= max(one.kv_capacity_tokens for one in ranks)
    assert together.max_batch_tokens == ranks[0].max_batch_tokens
    assert limits_together([]) is LIMITS_UNKNOWN
