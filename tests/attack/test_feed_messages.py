"""What an agent sends may be anything; a router takes what it can compute with, or nothing."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.cluster.ledger import Ledger
from voltana.predictors.cautious_power import CautiousPower
from voltana.predictors.conformal import ConformalSnapshot, by_phase
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.predictors.tables import TablePredictor
from voltana.serving.bounds import MOST
from voltana.serving.feed_message import MOST_BYTES, FeedMessage, parse_message
from voltana.serving.router.feeds import FeedFollower
from voltana.serving.router.reports import Reports
from voltana.serving.snapshots import decode_power, decode_snapshot, encode_power, encode_snapshot
from voltana.testing.samples import outcomes
from voltana.timebase import ManualTime

CLOCKS = np.array([600.0, 1005.0, 1410.0])
ODD: list[Any] = [
    math.inf, -math.inf, math.nan, -1, -0.5, 1e300, 1e13, 2**63, 2**64 - 1, -(2**63), True, False,
    None, "", "5", "inf", "x" * 5000, b"", b"\xff" * 100, [], [1], [[[[]]]], {}, {"a": {"b": {}}},
    msgspec.msgpack.Ext(5, b"abc"),
]  # fmt: skip


def learned() -> EcoPred:
    predictor = EcoPred(max_clock_mhz=1410.0)
    for outcome in outcomes(60):
        predictor.learn(outcome)
    return predictor


def honest() -> dict[str, Any]:
    latency = ConformalSnapshot(
        predictor=learned().snapshot(), quantiles={"decode": 0.1, "": math.inf}, q_cert=0.5,
        widened=0.0, offset_s=0.001, group=by_phase, edges_mhz=(1100.0,),
    )  # fmt: skip
    return {
        "v": 1, "instance": "decode-0", "state": [5, 600, 2, 70, 1200.0, 0.25], "age_s": 0.01,
        "budget_s": 0.06, "rooms": [7, 2**64 - 1], "names_waiting": True,
        "levels_mhz": [600.0, 1005.0, 1410.0], "kv_capacity_tokens": 9e5,
        "kv_reserved_tokens": 512.0, "max_running_requests": 256.0, "max_batch_tokens": 8192.0,
        "snapshot": encode_snapshot(latency),
        "power": encode_power(CautiousPower(LinearPower()).snapshot()),
    }  # fmt: skip


HONEST = honest()
RAW = msgspec.msgpack.encode(HONEST)


def follower() -> FeedFollower:
    names = {"decode-0", "decode-1"}
    return FeedFollower(names, reports=Reports(0.1), ledger=Ledger(), time=ManualTime(100.0))


def check_bounded(message: FeedMessage | None) -> None:
    """Everything that a router computes with is a number, and of a size that adds up."""
    if message is None:
        return
    state = message.state
    for value in (
        state.running_requests, state.kv_tokens, state.queued_requests, state.queued_tokens,
        state.oldest_wait_s, message.age_s,
    ):  # fmt: skip
        assert 0 <= value <= MOST
    assert math.isnan(state.clock_mhz) or 0 <= state.clock_mhz <= 1e5
    assert message.budget_s >= 0
    assert all(isinstance(room, int) and 0 <= room < 2**64 for room in message.rooms)
    if message.facts is not None:
        assert all(0 < mhz <= 1e5 for mhz in message.facts.levels_mhz)
        assert message.facts.limits.kv_capacity_tokens >= 0
        assert 0 <= message.facts.limits.kv_reserved_tokens <= MOST
        assert message.facts.limits.max_running_requests >= 1
        assert message.facts.limits.max_batch_tokens >= 1


def parsed(raw: bytes) -> FeedMessage | None:
    try:
        return parse_message(raw)
    except ValueError:
        return None


def test_the_honest_message_is_taken() -> None:
    made = follower()
    made.take(RAW, "decode-0")
    report = made._reports.fresh("decode-0", 100.0)
    assert report is not None
    assert report.state.kv_tokens == 600
    assert report.facts.predictor is not None
    assert report.facts.power is not None


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
@pytest.mark.parametrize(
    "field", [*HONEST, *(f"state.{i}" for i in range(6)), "rooms.0", "levels_mhz.1"]
)
def test_one_odd_value_ends_nothing(field: str, odd: Any) -> None:
    name, _, place = field.partition(".")
    value: Any = odd
    if place:
        value = list(HONEST[name])
        value[int(place)] = odd
    raw = msgspec.msgpack.encode(HONEST | {name: value})
    check_bounded(parsed(raw))
    made = follower()
    made.take(raw, "decode-0")
    made.take(RAW, "decode-0")
    report = made._reports.fresh("decode-0", 100.0)
    assert report is not None
    assert report.state.kv_tokens == 600


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1e300, None, "nan", [1.0]])
def test_no_coefficient_of_a_model_is_taken_that_cannot_be_computed_with(odd: Any) -> None:
    """In every place of every model there is; what is left forecasts finite numbers."""
    tables = TablePredictor(
        clocks_mhz=CLOCKS, prefill=np.full((3, 2), 0.1), decode=np.full((3, 4, 3), 0.1)
    )
    for encoded, decode in (
        (HONEST["snapshot"], decode_snapshot),
        (encode_snapshot(tables), decode_snapshot),
        (HONEST["power"], decode_power),
    ):
        for path in paths(encoded):
            poisoned = msgspec.msgpack.decode(msgspec.msgpack.encode(encoded))
            at = poisoned
            for step in path[:-1]:
                at = at[step]
            at[path[-1]] = odd
            try:
                decode(poisoned)
            except ValueError:
                continue
            infinite_margin = odd == math.inf and "predictor" not in path
            unknown = path[-1] == "relative_deviation" and odd is None
            assert infinite_margin or unknown, path


def paths(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where numbers are."""
    if isinstance(value, dict):
        return [p for key, inner in value.items() for p in paths(inner, (*so_far, key))]
    if isinstance(value, list | tuple):
        return [p for i, inner in enumerate(value) for p in paths(inner, (*so_far, i))]
    return [so_far] if isinstance(value, float) else []


@pytest.mark.parametrize("kind", ["latency", "conformal", "linear-power", "os:system", "", 5])
def test_a_model_nested_without_end_or_of_a_million_values_is_refused(kind: Any) -> None:
    deep: Any = {}
    for _ in range(20_000):
        deep = {"kind": kind, "values": {"predictor": deep, "power": deep}, "group": "one"}
    for decode in (decode_snapshot, decode_power):
        for values in (deep, {"kind": kind, "values": {"weights": [0.0] * 1_000_000}}):
            with pytest.raises((ValueError, RecursionError)):
                decode(values)


@pytest.mark.parametrize(
    "values",
    [
        {"clocks_mhz": [1.0]},
        {"clocks_mhz": [], "prefill": None, "decode": None},
        {"clocks_mhz": 5.0, "prefill": None, "decode": None},
        {"clocks_mhz": [2.0, 1.0], "prefill": None, "decode": None},
        {"clocks_mhz": [[1.0]], "prefill": None, "decode": None},
        {"clocks_mhz": [1.0], "prefill": [[1.0]], "decode": None},
        {"clocks_mhz": [1.0], "prefill": 1.0, "decode": None},
        {"clocks_mhz": [1.0], "prefill": None, "decode": [[1.0, 1.0, 1.0]]},
        {"clocks_mhz": [1.0], "prefill": None, "decode": [[]]},
        {"clocks_mhz": [1.0], "prefill": None, "decode": [[[1.0, 1.0, 1.0], [1.0]]]},
    ],
)
def test_tables_of_another_shape_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"not allowed|unknown form|inhomogeneous"):
        decode_snapshot({"kind": "tables", "values": values})


def test_an_agent_does_not_speak_for_another() -> None:
    made = follower()
    made.take(msgspec.msgpack.encode(HONEST | {"instance": "decode-1"}), "decode-0")
    assert made._reports.fresh("decode-1", 100.0) is None
    assert made._reports.fresh("decode-0", 100.0) is None


def test_models_that_change_with_every_message_are_not_read_each_time() -> None:
    """A flood of new models costs the time of a few."""
    made, read = follower(), []
    made._read = lambda *_: read.append(1)  # type: ignore[assignment, method-assign]
    for number in range(1000):
        made.take(msgspec.msgpack.encode(HONEST | {"budget_s": number * 1e-3, "snapshot": number}))
    assert len(read) <= 32


def test_a_message_of_megabytes_is_refused_unread() -> None:
    with pytest.raises(ValueError, match="bytes"):
        parse_message(b"\xc1" * (MOST_BYTES + 1))


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(
        st.text(max_size=9), inner, max_size=4
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from([*HONEST]), values, max_size=4))
def test_whatever_is_in_a_field_is_bounded_or_refused(changes: dict[str, Any]) -> None:
    raw = msgspec.msgpack.encode(HONEST | changes)
    check_bounded(parsed(raw))
    made = follower()
    made.take(raw)
    made.take(RAW)
    assert made._reports.fresh("decode-0", 100.0) is not None


@pytest.mark.slow
def test_a_million_damaged_messages_end_nothing() -> None:
    """Bytes flipped, cut, doubled and put in, each one from the honest message."""
    randoms, made = random.Random(10), follower()
    small = {k: v for k, v in HONEST.items() if k not in {"snapshot", "power", "levels_mhz"}}
    bodies = [msgspec.msgpack.encode(small), RAW]
    for number in range(1_000_000):
        raw = damaged(bodies[number % 16 == 0], randoms)
        check_bounded(parsed(raw))
        if number % 8 == 0:
            made.take(raw, "decode-0")
    made._time.advance(10.0)  # type: ignore[attr-defined]
    made.take(RAW, "decode-0")
    report = made._reports.fresh("decode-0", made._time.now_s())
    assert report is not None
    assert report.state.kv_tokens == 600


def damaged(body: bytes, randoms: random.Random) -> bytes:
    """One message with up to four bytes that are not as they were."""
    raw = bytearray(body)
    for _ in range(randoms.randrange(1, 5)):
        place, what = randoms.randrange(len(raw)), randoms.randrange(8)
        if what < 6:
            raw[place] = randoms.randrange(256)
        elif what == 6:
            raw.insert(place, randoms.choice(b"\x90\xdc\xdd\xde\xcb\xca\xcf\xd3\xc0\xc7\xff"))
        else:
            del raw[place:]
            break
        if not raw:
            break
    return bytes(raw)
