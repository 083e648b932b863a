"""An agent that lies in the right form: others are routed to by the policy, and as quickly.

What is said of an instance is believed of that instance. It must not make a router fail, which
would have it route by the fallback among all, nor take more of its time than what is true.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.attack.test_feed_messages import HONEST
from voltana.cluster.ledger import Ledger
from voltana.policies.named import get_policy
from voltana.predictors.tables import TablePredictor
from voltana.serving.feed_message import parse_message
from voltana.serving.router.chooser import RoleChooser
from voltana.serving.router.energy_split import LATE_S, MOST_W, EnergySplit
from voltana.serving.router.feeds import FeedFollower
from voltana.serving.router.pool import Backend
from voltana.serving.router.reports import Reports
from voltana.serving.router.settings import BackendTable, RouterTable
from voltana.serving.snapshots import encode_snapshot
from voltana.testing.timing import fastest_s
from voltana.timebase import ManualTime
from voltana.values import Deferral, Request

TRUE = HONEST | {"demand_per_s": 300.0}
NAMES = ("d0", "d1", "d2")
ODD = (
    0.0, 5e-324, 1e-300, 1e-12, 0.5, 1.0, 3.0, 1e3, 1e6, 2.0**40, 1e12, 1e24, 1e308, -1.0, -1e12,
    -1e24, math.inf, math.nan,
)  # fmt: skip
MOST_TIMES = 8.0
"""A lie over the truth, in the router's time for a choice."""


class Leg:
    """A router's decode leg of three instances, the first of which has an agent that lies."""

    def __init__(self, policy: str = "voltana") -> None:
        self.time, self.reports = ManualTime(100.0), Reports(0.5)
        self.complaints: list[str] = []
        ledger = Ledger()
        self._feeds = FeedFollower(set(NAMES), reports=self.reports, ledger=ledger, time=self.time)
        backends = [
            Backend(BackendTable(name=name, role="decode", url="http://h:1"), RouterTable())
            for name in NAMES
        ]
        for backend in backends:
            backend.passed_check()
        self.leg = RoleChooser(
            backends,
            get_policy(policy).decode_router(0),
            ledger=ledger,
            reports=self.reports,
            time=self.time,
            count=lambda *_: None,
        )
        self.leg._complain = self.complaints.append  # type: ignore[method-assign]

    def hear(self, lie: dict[str, Any], number: int = 0) -> None:
        """All three tell something."""
        self.time.advance(0.11)
        for place, told in enumerate((lie, TRUE, TRUE)):
            state = [*told["state"][:1], told["state"][1] + 37 * number, *told["state"][2:]]
            message = told | {"instance": NAMES[place], "state": state}
            self._feeds.take(msgspec.msgpack.encode(message), NAMES[place])

    def choose(self) -> str | None:
        """Who gets the next request; None if it is to wait."""
        asked = Request(request_id=1, arrived_at_s=0.0, prompt_tokens=50, slack_s=1.0)
        chosen = self.leg.choose_or_defer(asked)
        return None if isinstance(chosen, Deferral) else chosen.name


def places(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a message has numbers."""
    if isinstance(value, dict):
        return [p for key, inner in value.items() for p in places(inner, (*so_far, key))]
    if isinstance(value, list):
        return [p for i, inner in enumerate(value) for p in places(inner, (*so_far, i))]
    return [so_far] if isinstance(value, int | float) and not isinstance(value, bool) else []


PLACES = [place for place in places(TRUE) if place[0] not in {"v", "rooms"}]
SHALLOW = [place for place in PLACES if place[0] not in {"snapshot", "power"}]

EXPERTS = ("snapshot", "values", "predictor", "values", "decode", "expert_share")


def told(changes: list[tuple[tuple[Any, ...], float]]) -> dict[str, Any]:
    """The truth with some numbers of it changed."""
    lie = copy.deepcopy(TRUE)
    for place, value in changes:
        at: Any = lie
        for step in place[:-1]:
            at = at[step]
        at[place[-1]] = value
    return lie


def changed(where: list[tuple[Any, ...]]) -> st.SearchStrategy[tuple[tuple[Any, ...], float]]:
    return st.tuples(st.sampled_from(where), st.sampled_from(ODD))


@settings(max_examples=300)
@given(st.lists(changed(SHALLOW) | changed(PLACES), min_size=1, max_size=6))
@example([(EXPERTS, 1000.0)])
def test_no_lie_makes_the_router_of_the_policy_fail(
    changes: list[tuple[tuple[Any, ...], float]],
) -> None:
    leg = Leg()
    for number in range(2):
        leg.hear(told(changes), number)
        assert leg.choose() in {*NAMES, None}
        leg.leg.tell_intents(lambda *_: None, lambda: 0.1)
    assert leg.complaints == []


@pytest.mark.parametrize("part", [5e-324, 0.5, 1e-9])
@pytest.mark.parametrize("place", range(4))
def test_a_part_of_a_request_or_token_is_no_count(place: int, part: float) -> None:
    with pytest.raises(ValueError, match="must be a whole number"):
        parse_message(msgspec.msgpack.encode(told([(("state", place), part)])))


@pytest.mark.parametrize("levels", [[1410.0, 600.0], [600.0, 600.0]])
def test_levels_that_do_not_ascend_are_refused(levels: list[float]) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        parse_message(msgspec.msgpack.encode(TRUE | {"levels_mhz": levels}))


def test_of_more_levels_than_any_board_has_routers_look_at_some() -> None:
    levels = np.linspace(600.0, 1410.0, 4096).tolist()
    facts = parse_message(msgspec.msgpack.encode(TRUE | {"levels_mhz": levels})).facts  # type: ignore[union-attr]
    assert facts is not None
    assert len(facts.levels_mhz) <= 256
    assert facts.levels_mhz[-1] == 1410.0
    assert list(facts.levels_mhz) == sorted(set(facts.levels_mhz))


def _tables(clocks: int, tiles: int) -> dict[str, Any]:
    made = TablePredictor(
        clocks_mhz=np.linspace(600.0, 1410.0, clocks),
        prefill=np.full((clocks, 2), 0.1),
        decode=np.full((clocks, tiles, 3), 0.1),
    )
    return TRUE | {"snapshot": encode_snapshot(made)}


def _conformal(**values: Any) -> dict[str, Any]:
    lie = copy.deepcopy(TRUE)
    lie["snapshot"]["values"].update(values)
    return lie


def _cautious(times: int) -> dict[str, Any]:
    power = TRUE["power"]
    for _ in range(times):
        power = {"kind": "cautious-power", "values": {"power": power, "excess": 0.0}}
    return TRUE | {"power": power}


LIES = {
    "4096 levels": TRUE | {"levels_mhz": np.linspace(600.0, 1410.0, 4096).tolist()},
    "tables of many clocks": _tables(1000, 4),
    "tables of many tiles": _tables(3, 1500),
    "63 edges": _conformal(edges_mhz=[float(mhz) for mhz in range(600, 663)]),
    "10,000 edges": _conformal(edges_mhz=[float(mhz) for mhz in range(600, 10_600)]),
    "10,000 groups": _conformal(quantiles={str(n): 0.1 for n in range(10_000)}),
    "cautious of its caution": _cautious(200),
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("policy", ["voltana", "voltana-affinity", "static-max-routed"])
def test_no_lie_takes_much_more_of_the_routers_time_than_the_truth(policy: str, name: str) -> None:
    def choices_s(lie: dict[str, Any]) -> float:
        leg = Leg(policy)
        taken_s = []
        for number in range(30):  # another batch each time, so that no answer is remembered
            leg.hear(lie, number)
            taken_s.append(fastest_s(leg.choose, 1))
        return float(np.median(taken_s))

    ratios = []
    for _ in range(3):
        ratios.append(choices_s(LIES[name]) / choices_s(TRUE))
        if ratios[-1] < MOST_TIMES:
            return
    raise AssertionError(ratios)


def test_energy_that_no_boards_can_have_drawn_is_charged_to_nobody() -> None:
    time = ManualTime(0.0)
    split = EnergySplit(time.now_s)
    split.enters("d0", "mine", 1)
    true_j = 0.0
    for number in range(100):
        time.advance(0.04)
        true_j = 5000.0 * time.now_s()
        split.told("d0", "decode", true_j if number % 2 else 1e12 / (number + 1))
    assert _charged_j(split) <= MOST_W * (time.now_s() + LATE_S)
    honest = EnergySplit(time.now_s)
    honest.enters("d0", "mine", 1)
    began_j = true_j
    for number in range(100):  # a loop that stood still hears ten at once
        if number % 10 == 0:
            time.advance(0.4)
        true_j += 200.0
        honest.told("d0", "decode", true_j)
    assert _charged_j(honest) == pytest.approx(true_j - began_j - 200.0)


def _charged_j(split: EnergySplit) -> float:
    return sum(split.by_tenant_j.values()) + sum(split.unattributed_j.values())
