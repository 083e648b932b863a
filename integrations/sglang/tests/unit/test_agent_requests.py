"""Promised requests beside an engine: a group on a fake engine that tells what became of them."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from agent_world import promising_world, served
from fake_scheduler import FakeEngine
from killed_agent import ENGINE
from rich.console import Console

from voltana.cli.top_view import Answer
from voltana.cli.top_view import render as top
from voltana.cluster.promised_requests import REQUESTS
from voltana.cluster.request_promises import RequestPromises
from voltana.serving.agent.metrics import render
from voltana.serving.agent.two_slots import TwoSlots
from voltana.slo import Slo
from voltana.values import Load
from voltana_ring.layout import Change

LOAD = Load.decode(4, 2000)
SLO = Slo(ttft_s=1.0, itl_s=0.04)
PROMPT = Load.prefill([(500, 0)])


@pytest.fixture
def world(tmp_path):
    with made(tmp_path, "decode") as world:
        yield world


@pytest.fixture
def prefill(tmp_path):
    with made(tmp_path, "prefill") as world:
        yield world


def made(folder, role, **facts):
    return promising_world(folder, SLO, ENGINE, role=role, **facts)


def guarantee(group):
    return served(group).guarantee


def account(world, leg="itl"):
    return guarantee(world.group).requests.accounts()[leg]


def tell(world, name, what, tokens=0, *, at_s=None, load=LOAD, waiting_tokens=0):
    at_s = world.time.now_s() if at_s is None else at_s
    world.engine.tell(load, (name, at_s, what, tokens), waiting_tokens=waiting_tokens)
    world.group.drain()


def serve(world, name, mean_s, tokens=11, end=Change.ENDED):
    """A request whose tokens are `mean_s` apart."""
    tell(world, name, Change.JOINED)
    world.time.advance((tokens - 1) * mean_s)
    tell(world, name, end, tokens)


def test_a_mean_itl_is_promised_at_the_join_and_scored_at_the_last_token(world):
    serve(world, 1, 0.01)
    serve(world, 2, 0.06)
    seen = account(world)
    assert (seen["promised"], seen["scored"], seen["kept"], seen["missed"]) == (2, 2, 1, 1)
    assert seen["in_flight"] == seen["forgiven"] == 0
    assert seen["missed"] <= seen["bound"]


def test_a_ttft_is_promised_at_arrival_and_scored_at_the_first_token(prefill):
    now_s = prefill.time.now_s()
    for name, took_s in ((1, 0.5), (2, 1.5)):
        tell(prefill, name, Change.WAITS, at_s=now_s, load=PROMPT)
        tell(prefill, name, Change.FIRST, at_s=now_s + took_s, load=PROMPT)
    seen = account(prefill, "ttft")
    assert (seen["promised"], seen["kept"], seen["missed"]) == (2, 1, 1)


def test_a_first_token_that_never_comes_is_missed_after_its_deadline(prefill):
    tell(prefill, 1, Change.WAITS, load=PROMPT)
    prefill.time.advance(SLO.ttft_s + 0.5)
    prefill.group.tick(0.2)
    assert account(prefill, "ttft")["in_flight"] == 1  # it may be told a little later
    prefill.time.advance(1.0)
    prefill.group.tick(0.2)
    assert account(prefill, "ttft")["missed"] == 1
    tell(prefill, 1, Change.FIRST, load=PROMPT)
    assert account(prefill, "ttft")["scored"] == 1


def test_what_waits_before_it_counts_and_what_cannot_be_kept_is_not_promised(prefill):
    tell(prefill, 1, Change.WAITS, load=PROMPT, waiting_tokens=10_000_000)
    tell(prefill, 2, Change.WAITS, at_s=prefill.time.now_s() - 0.999, load=PROMPT)
    seen = account(prefill, "ttft")
    assert (seen["arrived"], seen["promised"]) == (2, 0)


@pytest.mark.parametrize(
    ("waited_s", "tokens", "expected"),
    [
        (0.001, 1, "withdrawn"),  # nothing was late yet
        (0.5, 1, "missed"),  # its second token is late by now
        (0.15, 11, "kept"),
        (9.0, 11, "missed"),  # after a stall
    ],
)
def test_an_abort_is_scored_by_what_it_waited(world, waited_s, tokens, expected):
    tell(world, 1, Change.JOINED)
    last_s = world.time.now_s() + min(waited_s, 0.01 * (tokens - 1))
    world.time.advance(waited_s)
    tell(world, 1, Change.ABORTED, tokens, at_s=last_s)
    seen = account(world)
    assert seen[expected] == 1
    assert seen["in_flight"] == 0


@pytest.mark.parametrize(("after_s", "expected"), [(0.5, "withdrawn"), (1.5, "missed")])
def test_an_abort_before_the_first_token_is_late_or_nothing(prefill, after_s, expected):
    tell(prefill, 1, Change.WAITS, load=PROMPT)
    prefill.time.advance(after_s)
    tell(prefill, 1, Change.GONE, load=PROMPT)
    assert account(prefill, "ttft")[expected] == 1


def test_a_server_of_both_phases_promises_both(tmp_path):
    with made(tmp_path, "unified") as world:
        tell(world, 1, Change.WAITS, load=PROMPT)
        tell(world, 1, Change.JOINED)
        world.time.advance(0.5)
        tell(world, 1, Change.FIRST)  # under overlap it joins before its token is known
        world.time.advance(0.1)
        tell(world, 1, Change.ENDED, 11)
        assert account(world, "ttft")["kept"] == account(world, "itl")["kept"] == 1


def test_what_was_overwritten_unread_is_forgiven_and_counted(world):
    for name in range(3):
        tell(world, name, Change.JOINED)
    world.engine.told += 1  # one that nobody read
    tell(world, 9, Change.JOINED)
    seen = account(world)
    assert (seen["lost"], seen["forgiven"], seen["in_flight"]) == (3, 3, 1)
    tell(world, 0, Change.ENDED, 11)  # of an end that comes after all nothing is known any more
    assert account(world)["scored"] == 0
    assert account(world)["bound"] >= 3


def test_a_ring_that_was_overrun_shows_as_such(world):
    tell(world, 1, Change.JOINED)
    for _ in range(1100):
        world.engine.idle()
    world.engine.tell(LOAD, (1, world.time.now_s(), Change.ENDED, 11))
    for _ in range(1100):
        world.engine.idle()
    tell(world, 2, Change.JOINED)
    assert account(world)["lost"] == 1


def test_an_engine_that_ends_takes_its_requests_with_it(world):
    tell(world, 1, Change.JOINED)
    kept = guarantee(world.group)
    world.engine.close()
    world.group.scan()
    assert kept.requests.accounts()["itl"]["lost"] == 1


def again(world):
    """The group of an agent that was killed: nothing was closed, nothing was saved."""
    group = world.make_group()
    group.settings = dataclasses.replace(group.settings, slo=SLO)
    group.scan()
    group.drain()
    return group


def test_a_restart_goes_on_with_every_request(world):
    serve(world, 1, 0.06)
    tell(world, 2, Change.JOINED)
    world.time.advance(5.0)
    world.engine.tell(LOAD, (2, world.time.now_s(), Change.ENDED, 11))  # while there is no agent
    group = again(world)
    seen = guarantee(group).requests.accounts()["itl"]
    assert (seen["promised"], seen["missed"], seen["lost"]) == (2, 2, 0)
    assert guarantee(group).requests.promises.itl.margin > 0.2
    group.close()


def test_another_ring_knows_nothing_of_what_was_under_way(world):
    tell(world, 1, Change.JOINED)
    world.engine.close()
    world.engine = FakeEngine(world.config.agent.rings, "decode-0", world.time.now_s)
    group = again(world)
    assert guarantee(group).requests.accounts()["itl"]["lost"] == 1
    world.engine.tell(LOAD, (5, world.time.now_s(), Change.JOINED, 0))
    group.drain()
    assert guarantee(group).requests.gaps == 1  # it does not begin with a gap
    group.close()


@pytest.mark.parametrize("change", ["slo", "policy"])
def test_what_was_promised_stands_whatever_is_changed(world, change):
    tell(world, 1, Change.JOINED)
    if change == "slo":
        world.group.set_slo(Slo(ttft_s=1.0, itl_s=0.05))
    else:
        world.group.set_policy("static-max")
    world.time.advance(0.45)
    tell(world, 1, Change.ENDED, 11)
    assert account(world)["missed"] == 1
    tell(world, 2, Change.JOINED)
    assert account(world)["promised"] == (2 if change == "slo" else 1)


def kept_state(world, change):
    """The state of a closed agent, changed."""
    world.group.close()
    (path,) = world.config.agent.state.glob("*.guarantee")
    slots = TwoSlots(path)
    values = json.loads(slots.read())
    change(values["requests"])
    for _ in range(2):
        slots.write(json.dumps(values).encode())
    slots.close()
    world.group = world.make_group()
    world.group.scan()
    world.group.set_slo(SLO)
    return guarantee(world.group)


NONSENSE = {
    "no told": lambda r: r.pop("told"),
    "told": lambda r: r.update(told=-3),
    "nan margin": lambda r: r["itl"]["tracker"].update(quantile=math.nan),
    "margin above all": lambda r: r["itl"]["tracker"].update(quantile=1e9),
    "no misses any more": lambda r: r["itl"]["counts"].update(scored=0),
    "more missed than scored": lambda r: r["itl"]["counts"].update(missed=7),
    "negative": lambda r: r["itl"]["counts"].update(withdrawn=-1),
    "text": lambda r: r["itl"]["counts"].update(arrived="1"),
    "twice open": lambda r: r["itl"]["open"].append(r["itl"]["open"][0]),
    "never open": lambda r: r["itl"].update(open=[]),
    "a list": lambda r: r.update(itl=[]),
    "carried": lambda r: r.update(carried={"itl": {"missed": math.inf}}),
    "statement": lambda r: r["itl"]["statement"].update(alpha=2.0),
}


@pytest.mark.parametrize("where", NONSENSE)
def test_a_state_with_nonsense_in_it_is_set_aside_and_said(world, where):
    serve(world, 1, 0.06)
    tell(world, 2, Change.JOINED)
    kept = kept_state(world, NONSENSE[where])
    assert kept.restored.startswith("damaged")
    assert kept.requests.promises.itl.margin == 0.15
    serve(world, 3, 0.01)
    assert account(world)["kept"] == 1


def test_another_statement_begins_anew_and_keeps_the_account(world):
    serve(world, 1, 0.06)
    tell(world, 2, Change.JOINED)
    kept = kept_state(world, lambda r: r["itl"]["statement"].update(gamma=0.01))
    assert kept.requests.promises.itl.statement == REQUESTS
    assert kept.requests.promises.itl.margin == 0.15
    seen = account(world)
    assert (seen["promised"], seen["missed"], seen["forgiven"]) == (2, 1, 1)


def test_a_file_from_before_requests_were_promised_is_taken(world):
    serve(world, 1, 0.01)
    world.group.close()
    (path,) = world.config.agent.state.glob("*.guarantee")
    slots = TwoSlots(path)
    values = json.loads(slots.read())
    del values["requests"]
    slots.write(json.dumps(values).encode())
    slots.close()
    world.group = world.make_group()
    world.group.scan()
    assert guarantee(world.group).restored == "restored"


def test_the_state_of_as_many_requests_as_may_be_fits_its_slot(world):
    for name in range(3000):
        tell_many = [(2**63 + name, world.time.now_s(), Change.JOINED, 0)]
        world.engine.tell(LOAD, *tell_many)
        if name % 200 == 0:
            world.group.drain()
    world.group.drain()
    seen = account(world)
    assert (seen["arrived"], seen["promised"]) == (3000, 512)
    group = again(world)
    assert guarantee(group).requests.accounts()["itl"] == seen
    group.close()


def test_a_users_predictor_that_fails_keeps_requests_from_promises_alone(world, monkeypatch):
    requests = guarantee(world.group).requests
    monkeypatch.setattr(requests.promises, "_mean_s", lambda load: 1 / 0)
    tell(world, 1, Change.JOINED)
    assert "ZeroDivisionError" in requests.error
    monkeypatch.undo()
    serve(world, 2, 0.01)
    assert account(world)["kept"] == 1


def test_status_metrics_and_top_show_it(world):
    serve(world, 1, 0.01)
    serve(world, 2, 0.06)
    tell(world, 3, Change.JOINED)
    figures = world.group.figures()["guarantee"]
    seen = figures["requests"]["itl"]
    assert seen["share_promised"] == 1.0
    text = render({"instance": "decode-0", "guarantee": figures})[0].decode()
    labels = '{backend="decode-0",threshold="itl"}'
    for name, value in {
        "promised_total": 3, "kept_total": 1, "missed_total": 1, "forgiven_total": 0,
        "in_flight": 1, "promised_ratio": 1, "bound": seen["bound"], "constant": seen["constant"],
    }.items():  # fmt: skip
        assert f"voltana_agent_guarantee_requests_{name}{labels} {float(value)}" in text
    console = Console(width=160, record=True, quiet=False)
    console.print(top([Answer(address="a", status={"guarantee": figures})], 160))
    shown = console.export_text()
    assert "100.0 %" in shown
    assert f"1/{seen['bound']:.0f}" in shown


def test_an_agent_that_may_spend_slack_gives_the_loop_that_of_the_batch(world):
    world.group.set_slo(dataclasses.replace(SLO, spending=1.5))
    seen = []
    control = next(iter(world.group._served.values())).control
    decide = control.controller.decide
    control.controller.decide = lambda o: (seen.append(o.slack_s), decide(o))[1]
    load = Load.decode(2, 1000)
    tell(world, 1, Change.JOINED)
    tell(world, 2, Change.JOINED)
    for _ in range(800):
        launch_s = world.engine.launch(load)
        world.group.drain()
        world.time.advance(0.01)
        world.engine.finish(load, launch_s, 0.01)
        world.group.drain()
    assert seen[0] == pytest.approx(0.04)
    assert 0.04 < max(seen) == pytest.approx(0.04 + 799 * 0.03)
    assert max(seen[:198]) == pytest.approx(0.04)  # one token in two hundred may be late
    tell(world, 1, Change.ENDED, 801)
    world.engine.launch(Load.decode(2, 1000))  # one of them joined before there was an agent
    world.group.drain()
    assert math.isnan(seen[-1])


@pytest.mark.parametrize("end_s", [-5.0, -0.01])
def test_an_end_before_the_beginning_is_no_hit(world, end_s):
    """A clock that went back says nothing."""
    tell(world, 1, Change.JOINED)
    tell(world, 1, Change.ENDED, 11, at_s=world.time.now_s() + end_s)
    assert account(world)["missed"] == 1


def test_what_was_told_and_not_read_over_a_restart_is_noticed(world):
    tell(world, 1, Change.JOINED)
    world.engine.told += 1  # while there is no agent, and overwritten
    group = again(world)
    assert guarantee(group).requests.promises.itl.in_flight == 1
    world.engine.tell(LOAD, (2, world.time.now_s(), Change.JOINED, 0))
    group.drain()
    assert guarantee(group).requests.accounts()["itl"]["lost"] == 1
    group.close()


def test_slack_is_counted_anew_for_another_threshold_and_kept_for_the_same(world):
    spends = dataclasses.replace(SLO, spending=1.5)
    world.group.set_slo(spends)
    requests = guarantee(world.group).requests
    first = requests.slack
    world.group.set_slo(dataclasses.replace(spends, ttft_s=2.0))
    assert requests.slack is first
    world.group.set_slo(dataclasses.replace(spends, itl_s=0.05))
    assert requests.slack is not first
    assert requests.slack.itl_s == 0.05


def heard_and_not_written(world, *names):
    """An agent that is killed after it has promised, and before it has written that down."""
    found = served(world.group)
    for name in names:
        world.engine.tell(LOAD, (name, world.time.now_s(), Change.JOINED, 0))
    found.ring_loop.take(found.reader.drain())
    assert account(world)["promised"] >= len(names)


@pytest.mark.parametrize("knows", [True, False])
def test_what_was_promised_and_not_written_is_promised_again_or_counts_as_lost(
    world, monkeypatch, knows
):
    """The model of an agent that comes back may know less, and promise less."""
    tell(world, 1, Change.JOINED)
    heard_and_not_written(world, 2, 3)
    if not knows:
        monkeypatch.setattr(RequestPromises, "_mean_s", lambda self, load: math.inf)
    world.time.advance(5.0)
    for name in (1, 2, 3):
        world.engine.tell(LOAD, (name, world.time.now_s(), Change.ENDED, 11))
    world.engine.tell(LOAD, (4, world.time.now_s(), Change.JOINED, 0))
    group = again(world)
    seen = guarantee(group).requests.accounts()["itl"]
    assert seen["missed"] + seen["forgiven"] == 3
    assert seen["promised"] == 3 + knows  # what nobody had heard of is not presumed
    assert seen["lost"] == (0 if knows else 2)
    group.close()


def test_what_was_promised_and_not_written_is_lost_with_its_ring(world):
    tell(world, 1, Change.JOINED)
    heard_and_not_written(world, 2, 3)
    world.engine.close()
    world.engine = FakeEngine(world.config.agent.rings, "decode-0", world.time.now_s)
    group = again(world)
    seen = guarantee(group).requests.accounts()["itl"]
    assert (seen["promised"], seen["lost"]) == (3, 3)
    group.close()
