"""Feeds: messages, their publisher, and the follower that reads them."""

from __future__ import annotations

import asyncio
import math
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from chooser_bench import LEVELS, facts, learned
from hypothesis import given
from hypothesis import strategies as st
from router_cluster import cluster, until

from voltana.cluster.context import EngineLimits
from voltana.cluster.ledger import Entry, Ledger
from voltana.predictors.linear_power import LinearPower
from voltana.serving.feed import FeedPublisher
from voltana.serving.feed_message import STATE_FIELDS, VERSION, parse_message
from voltana.serving.router.feeds import FeedFollower, _Share
from voltana.serving.router.reports import FEED, Reports
from voltana.serving.snapshots import (
    encode_snapshot,
)
from voltana.timebase import ManualTime, MonotonicTime
from voltana.values import InstanceState, Reservation

STATE = InstanceState(running_requests=5, kv_tokens=600, queued_tokens=70, clock_mhz=1200.0)

LIMITS = EngineLimits(
    max_batch_tokens=8192,
    max_running_requests=48,
    kv_capacity_tokens=9e5,
    kv_reserved_tokens=512.0,
    prompts_first=True,
)


class Unsendable:
    """A user's own snapshot that is no plain data."""

    @classmethod
    def from_dict(cls, values: Any) -> Unsendable:
        return cls()

    def to_dict(self) -> dict[str, Any]:
        return {"model": object()}


def test_a_snapshot_that_cannot_be_sent_is_left_out_and_said_once() -> None:
    publisher = FeedPublisher("inproc://unsendable", "decode-0", MonotonicTime())
    sent: list[bytes] = []
    publisher._socket.close()
    publisher._listeners = types.SimpleNamespace(  # type: ignore[assignment]
        said=lambda: (), send=sent.append
    )
    with structlog.testing.capture_logs() as logs:
        publisher._log = structlog.get_logger()
        for snapshot in (Unsendable(), Unsendable(), learned().snapshot()):
            publisher.publish(STATE, age_s=0.0, facts=facts(predictor=snapshot))
    messages = [parse_message(raw) for raw in sent]
    assert [message and message.state for message in messages] == [STATE] * 3
    sent_facts = [message.facts for message in messages if message and message.facts]
    assert [bool(sent.snapshot) for sent in sent_facts] == [False, False, True]
    assert len(logs) == 1
    publisher.close()


def test_a_feed_reaches_the_router_s_reports() -> None:
    async def check() -> None:
        time = MonotonicTime()
        publisher = FeedPublisher("tcp://127.0.0.1:0", "decode-0", time)
        feeds = {"decode-0": publisher.address}
        # Staler than usual, for a busy machine may hold up this task for longer than 100 ms.
        async with cluster(prefill=1, decode=2, feeds=feeds, stale_after_s=2.0) as pd:
            power = LinearPower().snapshot()
            told = facts(
                predictor=learned().snapshot(),
                power=power,
                limits=LIMITS,
                ttft_s=0.6,
            )
            report = None
            for _ in range(200):
                publisher.publish(STATE, age_s=0.01, facts=told)
                await asyncio.sleep(0.01)
                report = pd.service.reports.fresh("decode-0", time.now_s())
                if report is not None and report.facts.predictor is not None:
                    break
            assert report is not None
            assert report.facts.predictor is not None
            assert (report.state, report.source) == (STATE, FEED)
            assert (report.facts.levels_mhz, report.facts.budget_s) == (LEVELS, 0.06)
            assert report.facts.power == power
            assert (report.facts.limits, report.facts.ttft_s) == (LIMITS, 0.6)
            assert 0.01 <= time.now_s() - report.sampled_s < 2.0
            status = (await pd.ask_admin("GET", "/router/status"))[1]
            by_name = {b["name"]: b["state"] for b in status["backends"]}
            assert by_name == {"prefill-0": "stale", "decode-0": "feed", "decode-1": "stale"}
            await until(lambda: pd.service.reports.fresh("decode-0", time.now_s()) is None)
        publisher.close()

    asyncio.run(check())


def test_the_example_s_router_chooses_by_what_agents_publish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user's MODULE:FACTORY, from feeds over sockets to requests on servers."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[4] / "examples"))

    async def check() -> None:
        clocks = {"decode-0": 1400.0, "decode-1": 900.0}
        publishers = {
            name: FeedPublisher("tcp://127.0.0.1:0", name, MonotonicTime()) for name in clocks
        }
        feeds = {name: publisher.address for name, publisher in publishers.items()}

        nothing_learned = facts()

        async def publish() -> None:
            while True:
                for name, publisher in publishers.items():
                    state = InstanceState(clock_mhz=clocks[name])
                    publisher.publish(state, age_s=0.0, facts=nothing_learned)
                await asyncio.sleep(0.005)

        publishing = asyncio.create_task(publish())
        mine = "custom_router:LowestClock"
        # Generous, for a busy machine may hold up the task above for longer than 100 ms.
        settings: dict[str, Any] = {"decode_router": mine, "stale_after_s": 2.0, "feeds": feeds}
        async with cluster(prefill=1, decode=2, **settings) as pd, asyncio.timeout(60):

            def told() -> bool:
                now_s = MonotonicTime().now_s()
                found = {n: pd.service.reports.fresh(n, now_s) for n in clocks}
                return all(r and r.state.clock_mhz == clocks[n] for n, r in found.items())

            for slow in ("decode-1", "decode-0"):
                other = "decode-0" if slow == "decode-1" else "decode-1"
                clocks[slow], clocks[other] = 900.0, 1400.0
                await until(told)
                for _ in range(3):
                    _, _, headers = await pd.post("/generate", {"text": "a"})
                    assert headers["X-Voltana-Decode"] == slow
            assert 'role="decode",source="feed"} 6.0' in (await pd.ask_admin("GET", "/metrics"))[1]
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        for publisher in publishers.values():
            publisher.close()

    asyncio.run(check())


class Wire:
    """Collects what a publisher would send, without a socket."""

    def __init__(self) -> None:
        self.time = ManualTime(100.0)
        self.reports, self.ledger = Reports(0.1), Ledger()
        self.follower = FeedFollower(
            {"decode-0"}, reports=self.reports, ledger=self.ledger, time=self.time
        )

    def message(self, **changes: Any) -> bytes:
        state = [5, 600, 0, 70, 1200.0, 0.0]
        plain = {"v": 1, "instance": "decode-0", "state": state, "age_s": 0.0, "budget_s": 0.06}
        return msgspec.msgpack.encode(plain | {"rooms": []} | changes)


def test_levels_and_snapshot_stand_until_they_are_sent_again() -> None:
    wire = Wire()
    snapshot = encode_snapshot(learned().snapshot())
    wire.follower.take(wire.message(levels_mhz=list(LEVELS), snapshot=snapshot))
    wire.follower.take(wire.message())
    first = wire.reports.fresh("decode-0", 100.0)
    assert first is not None
    assert first.facts.predictor is not None
    assert first.facts.levels_mhz == LEVELS
    wire.follower.take(wire.message(levels_mhz=list(LEVELS), snapshot=snapshot))
    second = wire.reports.fresh("decode-0", 100.0)
    assert second is not None
    assert second.facts.predictor is first.facts.predictor  # not read again every second


def test_unusable_messages_change_nothing() -> None:
    wire = Wire()
    for raw in (
        b"",
        b"\xc1",
        wire.message(v=2),
        wire.message(instance="other"),
        wire.message(state=[1]),
    ):
        wire.follower.take(raw)
    assert wire.reports.fresh("decode-0", 100.0) is None
    wire.follower.take(
        wire.message(levels_mhz=[1.0], snapshot={"kind": "nobody:knows", "values": {}})
    )
    report = wire.reports.fresh("decode-0", 100.0)
    assert report is not None
    assert report.facts.predictor is None


def test_a_message_settles_the_rooms_that_it_names() -> None:
    wire = Wire()
    wire.ledger.book(
        Entry(
            rid="r",
            prefill="p",
            decode="decode-0",
            requests=1,
            prompt_tokens=9,
            sent_s=100.0,
            rooms=(77,),
        )
    )
    wire.follower.take(wire.message())
    assert wire.ledger.account("decode-0").reserved() == Reservation(requests=1, prompt_tokens=9)
    wire.follower.take(wire.message(rooms=[77]))
    assert wire.ledger.account("decode-0").reserved().requests == 0


def test_the_publisher_sends_what_changes_seldom_on_change_and_once_a_second() -> None:
    time, sent = ManualTime(), []
    publisher = FeedPublisher("tcp://127.0.0.1:0", "decode-0", time)
    publisher._socket.close()
    publisher._listeners = types.SimpleNamespace(  # type: ignore[assignment]
        said=lambda: (), send=lambda raw: sent.append(parse_message(raw))
    )
    one, other = facts(predictor=learned().snapshot()), facts(predictor=learned().snapshot())
    for told, gap_s in ((one, 0.1), (one, 0.1), (other, 0.1), (other, 1.1), (other, 0.1)):
        publisher.publish(STATE, age_s=0.0, facts=told)
        time.advance(gap_s)
    assert [m.facts is not None for m in sent] == [True, False, True, False, True]


ODD_STATES = [
    [value if name == field else 0 for name in STATE_FIELDS]
    for field in ("running_requests", "kv_tokens", "oldest_wait_s")
    for value in ("8", None, math.nan, -1, math.inf, [1])
]


@pytest.mark.parametrize(
    "raw",
    [
        b"\x91" * 100_000,  # nested deeper than can be read
        *(
            msgspec.msgpack.encode(
                {"v": VERSION, "instance": "d0", "age_s": 0.0, "budget_s": 1.0}
                | {"state": [0] * len(STATE_FIELDS), "rooms": [room]}
            )
            for room in (math.inf, math.nan, "x")
        ),
        *(
            msgspec.msgpack.encode(
                {"v": VERSION, "instance": "d0", "age_s": 0.0, "budget_s": 1.0, "state": state}
            )
            for state in ODD_STATES
        ),
        *(
            msgspec.msgpack.encode(
                {"v": VERSION, "instance": "d0", "age_s": 0.0, "budget_s": 1.0}
                | {"state": [0] * len(STATE_FIELDS), "computing": computing}
            )
            for computing in (1, [1], [1, 2, 3], ["1", 0.0], [-1, 0.0], [1, -0.1], [1, math.nan])
        ),
    ],
)
def test_an_odd_message_is_a_value_error_and_nothing_else(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_message(raw)


def test_a_feed_that_reads_a_new_model_now_and_then_never_rests_long() -> None:
    """Models twice a second, 20 ms each on a busy machine, and 40 states a second in between."""
    share, now_s, rests = _Share(0.0), 0.0, []
    for turn in range(400):
        spent_s = 0.02 if turn % 20 == 0 else 0.0002
        now_s += spent_s
        rests.append(share.rest_s(spent_s, now_s))
        now_s += max(0.025, rests[-1])
    assert max(rests) == 0.0


@given(st.lists(st.floats(1e-5, 0.05), min_size=50, max_size=200))
def test_a_flood_takes_a_twentieth_of_the_loop_whatever_it_consists_of(costs: list[float]) -> None:
    share, now_s = _Share(0.0), 0.0
    for spent_s in costs:
        now_s += spent_s
        now_s += share.rest_s(spent_s, now_s)
    assert sum(costs) <= 0.1 + now_s / 20 + 1e-9
