"""ForwardPassMetrics: what is read, what is refused, what is inferred, and what is lost."""

from __future__ import annotations

import math
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.forward_pass_publisher import Publisher, decode, encode, message, prefill
from voltana.errors import ConfigError
from voltana.serving.agent.service import Agent, AgentOptions
from voltana.serving.config import parse_config
from voltana.serving.sensors.arrivals_inferred import ArrivalsInferred
from voltana.serving.sensors.forward_pass_message import attended_pairs_of, parse_forward_pass
from voltana.serving.sensors.forward_pass_records import ForwardPassRecords
from voltana.values import Load
from voltana_ring.layout import MAX_ENTRIES, Kind


def records(*timed, joins=True, tokens=4096):
    """What a list of (time, message) makes; the records, and who made them."""
    maker = ForwardPassRecords(tokens, joins=joins)
    made = [one for at_s, told in timed for one in maker.take(read(told), at_s)]
    return made, maker


def read(told):
    return parse_forward_pass(encode(told))


def finished(made):
    return [one for one in made if one.kind is Kind.FINISHED]


# What is read.


def test_an_iteration_is_read_with_its_load_and_queue():
    told = read(
        message(
            7, 0.02, num_prefill_requests=2, sum_prefill_tokens=300, var_prefill_length=2500.0,
            num_decode_requests=3, sum_decode_kv_tokens=900,
            queued={"num_prefill_requests": 4, "sum_prefill_tokens": 800},
        )
    )  # fmt: skip
    assert told.load == Load(
        prefill_tokens=300,
        prefill_attended_pairs=sum(n * (n + 1) / 2 for n in (100, 200)),
        decode_requests=3,
        decode_kv_tokens=900,
    )
    assert (told.counter, told.wall_s, told.waiting_prompts, told.waiting_prompt_tokens) == (
        7, 0.02, 4, 800,
    )  # fmt: skip
    assert not told.missing


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_pairs_of_whole_prompts_are_exact(lengths):
    mean = sum(lengths) / len(lengths)
    variance = sum((n - mean) ** 2 for n in lengths) / len(lengths)
    exact = sum(n * (n + 1) / 2 for n in lengths)
    found = attended_pairs_of(len(lengths), sum(lengths), 0, variance)
    assert found == pytest.approx(exact, rel=1e-9)


@given(st.integers(1, 8000), st.integers(0, 8000), st.floats(0, 1e9))
def test_pairs_of_one_prompt_are_exact_even_if_it_is_cut(new, old, variance):
    assert attended_pairs_of(1, new, old, variance) == new * old + new * (new + 1) / 2


def test_unknown_fields_and_versions_are_ignored_and_missing_ones_named():
    told = decode(1, 2, 20) | {"version": 9, "a_field_of_tomorrow": [1, {"x": None}]}
    del told["counter_id"]
    del told["queued_requests"]["sum_prefill_tokens"]
    found = read(told)
    assert found.load == Load.decode(2, 20)
    assert found.missing == ("counter_id", "queued_requests.sum_prefill_tokens")


@pytest.mark.parametrize("field", ["num_decode_requests", "sum_prefill_kv_tokens"])
def test_what_an_iteration_cannot_be_told_without_is_named(field):
    told = decode(1, 2, 20) | {"version": 2}
    del told["scheduled_requests"][field]
    with pytest.raises(ValueError, match=rf"scheduled_requests\.{field} missing.*version 2"):
        read(told)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "0.1", None, True, [], 1e9])
def test_a_wall_time_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="wall_time"):
        read(decode(1, 2, 20) | {"wall_time": value})


@pytest.mark.parametrize("value", [-1, 2**41, 1.5, math.nan, "3", None, False, {}])
def test_a_count_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="num_decode_requests"):
        read(decode(1, value, 20))


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(ANY | st.binary(max_size=80).map(msgspec.Raw), st.sampled_from(list(message())))
def test_whatever_comes_is_read_or_refused_as_a_value_error(anything, field):
    for told in (anything, decode(1, 2, 20) | {field: anything}):
        try:
            found = parse_forward_pass(
                bytes(told) if isinstance(told, msgspec.Raw) else encode(told)
            )
        except ValueError:
            continue
        assert 0 <= found.wall_s < math.inf
        assert math.isfinite(found.load.prefill_attended_pairs)


def test_messages_that_are_too_long_or_too_deep_or_positional_are_refused():
    for raw in (bytes(70_000), b"\x91" * 60_000 + b"\x00", encode([1, "", 0, 0, 0.1, {}, {}])):
        with pytest.raises(ValueError, match=r"bytes|msgpack|map"):
            parse_forward_pass(raw)


# What is made of it.


def test_a_batch_that_goes_on_is_foreseen_and_labelled_under_its_number():
    made, maker = records(*((1 + 0.01 * i, decode(i, 4, 100 + 4 * i)) for i in range(50)))
    launches = {one.iteration: one.load for one in made if one.kind is Kind.LAUNCHED}
    ends = finished(made)
    assert len(ends) == 50
    assert [one.load for one in ends[1:]] == [launches[one.iteration] for one in ends[1:]]
    assert all(one.latency_s == 0.01 and 0 < one.ready_s - one.launch_s < 0.011 for one in ends)
    assert maker.lost == 0


def test_a_load_that_was_not_foreseen_has_a_number_that_nothing_was_decided_under():
    made, maker = records((1.0, decode(0, 4, 100)), (1.01, decode(1, 5, 180)))
    (launched, *_) = [one for one in made if one.kind is Kind.LAUNCHED]
    assert finished(made)[-1].iteration > launched.iteration
    assert maker.lost == 0


@pytest.mark.parametrize("gap", [1, 2, 17])
def test_what_counters_skip_is_lost_and_has_numbers(gap):
    told = [(1.0, decode(0, 4, 100)), (1.5, decode(1 + gap, 4, 100 + 4 * (1 + gap)))]
    made, maker = records(*told)
    first, second = finished(made)
    assert maker.lost == gap
    assert second.iteration - first.iteration > gap


@pytest.mark.parametrize("gap", [1, 2, 17])
def test_what_is_dropped_before_it_is_counted_is_seen_by_totals(gap):
    """SGLang counts what it sends: what its queue dropped has no number."""
    at_s = 1.0 + 0.011 * (1 + gap)
    _, maker = records((1.0, decode(0, 4, 100)), (at_s, decode(1, 4, 100 + 4 * (1 + gap))))
    assert maker.lost == gap


def test_speculative_steps_are_no_losses():
    """Three tokens a request and step, in the time of one step."""
    _, maker = records(*((1 + 0.0101 * i, decode(i, 4, 100 + 12 * i)) for i in range(20)))
    assert maker.lost == 0


def test_a_heartbeat_is_no_label_and_ends_what_was_foreseen():
    made, maker = records((1.0, decode(0, 4, 100)), (2.0, message(1)), (9.0, decode(2, 1, 60)))
    assert [one.kind for one in made] == [
        Kind.FINISHED, Kind.LAUNCHED, Kind.IDLE, Kind.FINISHED, Kind.LAUNCHED,
    ]  # fmt: skip
    assert len(finished(made)) == 2
    assert finished(made)[1].iteration > made[1].iteration
    assert maker.lost == 0


def test_a_decode_batch_that_falls_silent_has_ended():
    maker = ForwardPassRecords(4096, joins=True)
    maker.take(read(decode(0, 4, 100)), 1.0)
    assert maker.silent(1.2) == []
    assert [one.kind for one in maker.silent(1.3)] == [Kind.IDLE]
    assert maker.silent(1.4) == []


def test_a_prefill_server_with_nothing_behind_rests_and_with_a_queue_goes_on():
    made, _ = records((1.0, prefill(0, 1, 500)), joins=False)
    assert [one.kind for one in made] == [Kind.FINISHED, Kind.IDLE]
    told = prefill(0, 1, 500, num_prefill_requests=3, sum_prefill_tokens=9000)
    made, _ = records((1.0, told), joins=False)
    assert made[1].kind is Kind.LAUNCHED
    assert made[1].load.prefill_tokens == 4096
    assert len(made[1].waiting) == made[1].waiting_requests == 3


def test_prompts_join_the_decode_batch_of_a_unified_server():
    made, _ = records((1.0, decode(0, 2, 200)), (1.1, prefill(1, 1, 50)), (1.2, decode(2, 3, 253)))
    assert made[3].load == Load.decode(3, 202 + 51)
    assert made[3].iteration == made[4].iteration


def test_an_engine_that_lets_nobody_in_is_expected_to_decode():
    waiting = {"num_prefill_requests": 1, "sum_prefill_tokens": 900}
    made, _ = records(*((1 + i / 10, decode(i, 4, 100 + 4 * i, **waiting)) for i in range(3)))
    assert [one.load.prefill_tokens for one in made if one.kind is Kind.LAUNCHED] == [900, 0, 0]


# Who waits since when.


def test_the_oldest_wait_is_inferred_and_never_too_short():
    """A queue of known arrivals, served first come, first served, seen at every iteration."""
    arrivals = [0.3 * i for i in range(40)]
    waiting: list[float] = []
    inferred, at_s, before_s = ArrivalsInferred(), 0.0, 0.0
    for _ in range(60):
        at_s += 0.4
        come = [one for one in arrivals if before_s <= one < at_s]
        batch, waiting = waiting[:1], waiting[1:] + come
        oldest_s = inferred.take(len(waiting), len(batch), before_s)
        if batch:
            assert batch[0] - 0.4 <= oldest_s <= batch[0]
        if waiting:
            assert waiting[0] - 0.4 <= inferred.oldest_s <= waiting[0]
        before_s = at_s


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), max_size=60))
def test_counts_of_any_size_are_followed_in_bounded_memory(steps):
    inferred = ArrivalsInferred()
    for at_s, (waiting, started) in enumerate(steps):
        inferred.take(waiting, started, float(at_s))
        found = inferred.waiting(waiting * 3)
        assert len(found) == min(waiting, MAX_ENTRIES)
        assert (waiting > 0) == (not math.isnan(inferred.oldest_s))


def test_a_prompt_in_pieces_leaves_the_queue_once():
    waiting = {"num_prefill_requests": 2, "sum_prefill_tokens": 8000}
    made, _ = records(
        (10.0, prefill(0, 1, 4096, 1.0, num_prefill_requests=3, sum_prefill_tokens=9000)),
        (11.0, prefill(1, 1, 4096, 1.0, **waiting)),
        (12.0, prefill(2, 1, 4096, 1.0, prefix=4096, **waiting)),
        joins=False,
    )
    ends = finished(made)
    assert [one.oldest_s for one in ends] == [9.0, 9.0, 9.0]
    assert ends[-1].waiting_requests == 2


# Over ZMQ, in an agent.


@pytest.fixture
def opened(tmp_path):
    """Builds agents and publishers, and closes them."""
    things = []

    def agent(endpoint, role="decode", **table):
        config = parse_config(
            {
                "engine": {"sensor": "forward-pass-metrics", "kv_capacity_tokens": 9000},
                "agent": {"rings": str(tmp_path / "rings"), "state": str(tmp_path / "state")},
                "instance": [{"name": "i", "forward_pass_metrics": [endpoint], **table}],
                "actuator": {"kind": "simulated"},
            }
            | {"policy": {"controller": "static-max"}}
        )
        config = config.model_copy(
            update={"engine": config.engine.model_copy(update={"table_mhz": (900.0, 1800.0)})}
        )
        made = Agent(
            config,
            AgentOptions(
                instance="i", role=role, gpus=(), control_port=0, feed_port=0, dry_run=True
            ),
        )
        things.append(made)
        return made

    def publisher(endpoint):
        things.append(Publisher(endpoint))
        return things[-1]

    yield agent, publisher
    for one in reversed(things):
        one.close()


def until(condition, agent, limit_s=5.0):
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, agent.status()
        agent.group.scan()
        agent.group.tick(0.2)
        time.sleep(0.01)


def iterations(agent):
    return sum(agent.status().get("iterations", {}).values())


def spoken(agent, publisher):
    """A publisher's first messages are lost until it has heard of its listener."""

    def attached():
        publisher.send(message(0))
        return agent.group.attached

    until(attached, agent)


def test_an_agent_is_fed_and_survives_junk_and_restarts(opened, tmp_path):
    endpoint = f"ipc://{tmp_path}/fpm.0"
    make_agent, make_publisher = opened
    agent = make_agent(endpoint)
    first = make_publisher(endpoint)
    spoken(agent, first)
    first.send(*(decode(1 + i, 4, 100 + 4 * i) for i in range(20)))
    first.send(b"junk", {"version": 1}, decode(22, 4, 180) | {"wall_time": math.nan})
    until(lambda: iterations(agent) == 20 and agent.status()["records_torn"] == 3, agent)
    assert agent.health() == "ok"
    assert agent.status()["running_requests"] == 4
    assert agent.status()["records_lost"] == 0
    first.close()
    until(lambda: not agent.group.attached, agent)
    second = make_publisher(endpoint)
    spoken(agent, second)
    second.send(*(decode(1 + i, 2, 50 + 2 * i) for i in range(10)))
    until(lambda: agent.status()["running_requests"] == 2 and iterations(agent) == 10, agent)


def test_a_message_beyond_the_bound_ends_its_connection_and_nothing_else(opened, tmp_path):
    endpoint = f"ipc://{tmp_path}/fpm.0"
    make_agent, make_publisher = opened
    agent, publisher = make_agent(endpoint), make_publisher(endpoint)
    spoken(agent, publisher)
    publisher.send(bytes(1 << 20))
    until(lambda: not agent.group.attached, agent)
    spoken(agent, publisher)


def test_an_endpoint_that_never_speaks_is_reported(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("voltana.serving.sensors.forward_pass.SILENT_S", 0.2)
    endpoint = f"ipc://{tmp_path}/fpm.0"
    make_agent, make_publisher = opened
    agent = make_agent(endpoint)
    until(lambda: "nobody listens there" in agent.health(), agent)
    assert "--enable-forward-pass-metrics" in agent.health()
    make_publisher(endpoint)
    until(lambda: "(connected)" in agent.health(), agent)


def test_an_endpoint_that_tells_something_else_is_reported(opened, tmp_path):
    endpoint = f"ipc://{tmp_path}/fpm.0"
    make_agent, make_publisher = opened
    agent, publisher = make_agent(endpoint), make_publisher(endpoint)

    def reported():
        publisher.send(encode({"v": 1, "state": []}))
        return "scheduled_requests missing" in agent.health()

    until(reported, agent)


def test_a_role_has_to_be_named(opened, tmp_path):
    with pytest.raises(ConfigError, match="do not say what a server is for"):
        opened[0](f"ipc://{tmp_path}/fpm.0", role=None)


@pytest.mark.parametrize(
    "endpoint", ["", "ipc://", "ipc://relative", "tcp://*:5", "http://h:1", "ipc:///" + "x" * 200]
)
def test_endpoints_that_cannot_be_connected_to_are_refused(endpoint):
    with pytest.raises(ConfigError, match=r"instance\.forward_pass_metrics"):
        parse_config({"instance": [{"name": "i", "forward_pass_metrics": [endpoint]}]})
