"""Colocated instances: the scheduler's invariants, and the command end to end."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from voltana.cli.main import app
from voltana.config import parse_scenario
from voltana.controllers.both_phases import BothPhases
from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.report.series import series_of
from voltana.evaluation.report.timeline_panels import timelines
from voltana.evaluation.scenario import load_scenario
from voltana.plant.colocated.request import EngineRequest
from voltana.plant.colocated.scheduler import EngineScheduler, SchedulerOptions
from voltana.values import Role

SHORT = {"workload": {"rate_rps": 12.0, "duration_s": 4.0}}


@st.composite
def engines(draw):
    page = draw(st.sampled_from([1, 4, 16]))
    return SchedulerOptions(
        capacity_tokens=page * draw(st.integers(12, 60)),
        chunk_tokens=page * draw(st.integers(2, 8)),
        batch_tokens=page * draw(st.integers(2, 8)),
        max_requests=draw(st.integers(1, 8)),
        page_tokens=page,
        mixed=draw(st.booleans()),
    )


@settings(deadline=None)
@given(
    options=engines(),
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 60)), min_size=1, max_size=14),
    ahead=st.booleans(),
    gaps=st.lists(st.integers(0, 6), min_size=14, max_size=14),
)
def test_every_request_gets_its_tokens_whatever_the_engine(options, sizes, ahead, gaps):
    scheduler = EngineScheduler(options)
    # Those that an engine refuses at the door are not sent.
    sizes = [(p, o) for p, o in sizes if p + o + 2 * options.page_tokens < options.capacity_tokens]
    pending = [EngineRequest(i, p, o) for i, (p, o) in enumerate(sizes)]
    requests, open_batches, wait = list(pending), 0, 0
    for _ in range(20_000):
        if pending and not wait:
            scheduler.add(pending.pop(0))
            wait = gaps[len(pending) % len(gaps)]
        wait = max(wait - 1, 0)
        batch = scheduler.schedule()
        open_batches += batch is not None
        assert scheduler.available_tokens >= 0
        if batch is not None:
            assert batch.load().prefill_tokens <= options.chunk_tokens
            assert len(batch.requests) == len(set(batch.requests))
            assert not batch.decode or options.mixed or not batch.chunks
        elif not open_batches and not pending:
            break
        while open_batches > (ahead and batch is not None):
            scheduler.commit()
            open_batches -= 1
    assert all(r.finished and r.produced == r.output_tokens for r in requests)
    assert scheduler.available_tokens == options.capacity_tokens


def test_prompts_go_first_unless_batches_are_mixed():
    for mixed in (False, True):
        scheduler = EngineScheduler(
            SchedulerOptions(capacity_tokens=1000, chunk_tokens=64, mixed=mixed)
        )
        scheduler.add(EngineRequest("a", 30, 9))
        scheduler.schedule()
        scheduler.commit()
        scheduler.add(EngineRequest("b", 100, 2))
        seen = []
        while (batch := scheduler.schedule()) is not None and len(seen) < 3:
            chunks = [(c.request.key, c.new_tokens) for c in batch.chunks]
            seen.append((chunks, [r.key for r in batch.decode]))
            scheduler.commit()
        if mixed:
            assert seen[:2] == [([("b", 63)], ["a"]), ([("b", 37)], ["a"])]
            assert seen[2] == ([], ["b", "a"])
        else:
            assert seen == [([("b", 64)], []), ([("b", 36)], []), ([], ["a", "b"])]


def test_timelines_of_colocated_instances_count_requests_and_show_them():
    scenario = load_scenario(
        None, SHORT | {"cluster": {"colocated": 2}, "policies": ["static-max"]}
    )
    comparison = compare(scenario, record_timelines=True)
    series = series_of(comparison, {})
    for instance in comparison.runs[0].record.instances:
        batch, kv_tokens = instance.timeline.batch, instance.timeline.kv_tokens
        assert batch.max() > 0
        assert ((batch > 0) == (kv_tokens > 0)).all()  # prompts are no requests that decode
        assert (batch <= kv_tokens).all()
    (figure,) = timelines(series["policies"], {"itl_ms": 50.0})
    for name in ("colocated-0", "colocated-1"):
        lines = [trace for trace in figure.traces if trace["name"] == name]
        assert [line["yaxis"] for line in lines] == ["y", "y2", "y3"]


@pytest.mark.parametrize("mixed", [False, True])
def test_all_policies_serve_colocated_instances(mixed):
    scenario = load_scenario(
        None, SHORT | {"cluster": {"colocated": 2}, "engine": {"mixed_chunk": mixed}}
    )
    assert "voltana-v0.1" not in scenario.policies
    for run in compare(scenario).runs:
        record, result = run.record, run.result
        assert result.requests_completed == result.requests_offered == len(scenario.trace)
        assert result.colocated_energy_j == pytest.approx(result.energy_j)
        assert record.gap_tokens.sum() == (record.output_tokens - 1).sum()
        # What a request waited for its tokens in all is what its gaps come to.
        total_s = (record.completed_s - record.first_token_s).sum()
        assert np.dot(record.gap_s, record.gap_tokens) == pytest.approx(total_s, rel=1e-4)
        assert {i.role.value for i in record.instances} == {"colocated"}
        assert "colocated_clock_mhz" in result.to_dict()


def test_instances_hear_of_the_ends_of_answers_that_were_in_a_batch(monkeypatch):
    """A single token comes of the prompt, and says nothing of how long a batch runs."""
    heard = []
    monkeypatch.setattr(
        BothPhases, "request_ended", lambda _controller, *, late: heard.append(late)
    )
    scenario = load_scenario(
        None,
        {
            "workload": {"rate_rps": 12.0, "duration_s": 4.0, "max_output_tokens": 1},
            "cluster": {"colocated": 2},
            "policies": ["voltana"],
        },
    )
    compare(scenario)
    assert not heard
    scenario = load_scenario(None, SHORT | {"cluster": {"colocated": 2}, "policies": ["voltana"]})
    record = next(run for run in compare(scenario).runs if run.result.policy == "voltana").record
    itl_s = scenario.cluster.slo.itl_s
    assert len(heard) == (record.output_tokens > 1).sum()
    assert sum(heard) == (record.mean_itl_s[record.output_tokens > 1] > itl_s).sum()


def test_requests_go_where_fewer_are_in_flight():
    cluster = {"prefill": 1, "decode": 1, "colocated": 1}
    scenario = load_scenario(None, SHORT | {"cluster": cluster, "policies": ["static-max"]})
    record = compare(scenario).runs[0].record
    assert all(instance.iterations > 20 for instance in record.instances)
    assert np.isfinite(record.completed_s).all()


@pytest.mark.parametrize("name", ["voltana-v0.1", "voltana-v0.1-whatif"])
def test_the_published_system_says_why_it_refuses(name):
    arguments = ["simulate", "--colocated", "2", "--policy", name]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code != 0
    with pytest.raises(ConfigError, match=r"separate prefill and decode.*Take voltana, best-fixed"):
        load_scenario(None, {"cluster": {"colocated": 2}, "policies": [name]})


def test_pairs_are_whole_or_absent():
    cluster = parse_scenario({"cluster": {"colocated": 3}}).cluster
    assert (cluster.prefill, cluster.decode, cluster.colocated) == (0, 0, 3)
    with pytest.raises(ConfigError, match=r"cluster\.decode = 0 .*at least 1.*--colocated"):
        parse_scenario({"cluster": {"colocated": 3, "prefill": 2, "decode": 0}})


def test_the_command_finds_the_best_fixed_clock(tmp_path):
    file = tmp_path / "r.json"
    arguments = [
        "simulate", "--colocated", "1", "--rate", "6", "--duration", "4", "--policy", "best-fixed",
        "--json", str(file), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    best = json.loads(file.read_text())["results"][0]
    assert best["requests_completed"] == best["requests_offered"]
    assert (tmp_path / "out" / "scenario.toml").exists()


@pytest.mark.parametrize(("mixed", "most"), [(False, 64), (True, 61)])
def test_what_fits_a_batch_leaves_room_for_those_that_decode_beside(mixed, most):
    options = SchedulerOptions(
        capacity_tokens=10_000, chunk_tokens=64, batch_tokens=500, mixed=mixed
    )
    scheduler = EngineScheduler(options)
    for key in range(3):
        scheduler.add(EngineRequest(key, 20, 50))
    scheduler.schedule()
    scheduler.commit()
    scheduler.add(EngineRequest("long", 200, 50))
    for _ in range(2):  # while they wait for the batch of prompts, and while they are in it
        batch = scheduler.schedule()
        assert scheduler.prompt_tokens_of_batch == most
        assert batch.load().prefill_tokens == most
        scheduler.commit()


def test_what_is_left_of_a_gap_is_told_of_those_that_decode_in_a_mixed_batch(monkeypatch):
    """Nobody told it, so that the law ran mixed batches as if nobody waited for a token."""
    told = []
    decide = BothPhases.decide

    def spy(self, observation):
        if observation.load.decode_requests and observation.load.prefill_tokens:
            told.append(observation.slack_s)
        return decide(self, observation)

    monkeypatch.setattr(BothPhases, "decide", spy)
    scenario = load_scenario(
        None,
        SHORT
        | {
            "cluster": {"colocated": 1},
            "engine": {"mixed_chunk": True},
            "policies": ["voltana"],
        },
    )
    compare(scenario)
    assert len(told) > 10
    assert all(slack_s <= scenario.cluster.slo.itl_s for slack_s in told)  # none is nan


@pytest.mark.parametrize("mixed", [False, True])
def test_little_memory_costs_no_more_than_it_must(mixed):
    """Room that decode instances keep for each request was counted: 2 % saved of 30."""
    scenario = load_scenario(
        None,
        {
            "cluster": {"colocated": 2},
            "engine": {"memory_fraction": 0.23, "mixed_chunk": mixed},
            "workload": {"rate_rps": 16.5, "duration_s": 10.0},
            "policies": ["static-max", "voltana"],
        },
    )
    limits = scenario.cluster.limits_of
    assert limits(Role.COLOCATED).kv_reserved_tokens == 0
    assert limits(Role.DECODE).kv_reserved_tokens == 512
    fastest, ours = (run.result for run in compare(scenario).runs)
    assert ours.energy_saved_vs_static_max > 0.15
    assert ours.ttft_attainment >= fastest.ttft_attainment - 0.01
    assert ours.itl_token_attainment >= fastest.itl_token_attainment - 0.02
