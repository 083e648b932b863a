"""Scenarios: file, flags, resolution, and back to a file."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

from voltana.config import parse_scenario
from voltana.errors import ConfigError, UnknownNameError
from voltana.evaluation.scenario import ARRIVALS, load_scenario, overlay, read_tables, to_toml

TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,100,10\n1.0,200,20\n3.0,300,30\n"


@pytest.fixture
def trace_file(tmp_path):
    path = tmp_path / "requests.csv"
    path.write_text(TRACE)
    return path


def test_the_resolved_scenario_runs_again_as_the_same_one() -> None:
    first = load_scenario(
        None,
        {
            "policies": ["static-max", "static-max"],
            "seed": 3,
            "cluster": {"prefill": 1},
            ARRIVALS: {"duration_s": 5.0, "rate_rps": 20.0},
        },
    )
    again = parse_scenario(tomllib.loads(to_toml(first.file)))
    assert again == first.file
    assert again.policies == ("static-max",)
    assert again.cluster.tensor_parallel == 1
    assert again.engine.max_prefill_tokens == first.cluster.engine.max_prefill_tokens


def test_a_written_scenario_gives_the_same_trace(tmp_path, trace_file) -> None:
    flags = {"policies": ["static-max"], "trace": {"file": str(trace_file)}}
    first = load_scenario(None, flags)
    path = tmp_path / "elsewhere" / "scenario.toml"
    path.parent.mkdir()
    path.write_text(to_toml(first.file))
    again = load_scenario(path, {})
    assert again.file == first.file
    np.testing.assert_array_equal(again.trace.prompt_tokens, [100, 200, 300])


def test_paths_are_relative_to_the_file(tmp_path, trace_file, monkeypatch) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text('policies = ["static-max"]\n[trace]\nfile = "requests.csv"\n')
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    scenario = load_scenario(path, {})
    assert len(scenario.trace) == 3
    assert scenario.file.trace is not None
    assert scenario.file.trace.file == trace_file


def test_flags_win_over_the_file_and_none_leaves_it() -> None:
    tables = {"seed": 1, "slo": {"ttft_ms": 100.0, "itl_ms": 20.0}}
    merged = overlay(tables, {"seed": None, "slo": {"ttft_ms": 300.0, "itl_ms": None}})
    assert merged == {"seed": 1, "slo": {"ttft_ms": 300.0, "itl_ms": 20.0}}
    assert tables["slo"] == {"ttft_ms": 100.0, "itl_ms": 20.0}


@pytest.mark.parametrize(
    ("tables", "flags", "merged"),
    [
        ({}, {ARRIVALS: {"rate_rps": 5}}, {"workload": {"rate_rps": 5}}),
        (
            {"trace": {"file": "a"}},
            {ARRIVALS: {"rate_rps": 5}},
            {"trace": {"file": "a", "rate_rps": 5}},
        ),
        (
            {"workload": {"name": "a", "rate_rps": 9}},
            {"trace": {"file": "a"}, ARRIVALS: {"duration_s": 5}},
            {"trace": {"file": "a", "duration_s": 5}},
        ),
        (
            {"trace": {"file": "a"}},
            {"workload": {"name": "lmsys"}, ARRIVALS: {"rate_rps": 5}},
            {"workload": {"name": "lmsys", "rate_rps": 5}},
        ),
    ],
)
def test_a_trace_and_a_workload_replace_each_other(tables, flags, merged) -> None:
    assert overlay(tables, flags) == merged


def test_window_rate_and_clipping_reach_the_trace(trace_file) -> None:
    flags = {
        "policies": ["static-max"],
        "trace": {"file": str(trace_file), "start_s": 0.5},
        ARRIVALS: {"duration_s": 3.0, "rate_rps": 1.0, "max_prompt_tokens": 250},
    }
    trace = load_scenario(None, flags).trace
    np.testing.assert_array_equal(trace.prompt_tokens, [200, 250])
    assert np.diff(trace.arrival_s) == pytest.approx([1.0])  # 2 s apart, at 1 request/s


@pytest.mark.parametrize(
    ("slo", "text"),
    [
        ({"itl_ms": 0.01}, "slo.itl_ms = 0.01 .* at least .* one request alone .* Raise --slo-itl"),
        ({"ttft_ms": 0.01}, "slo.ttft_ms = 0.01 .* at least .* Raise --slo-ttft-ms"),
    ],
)
def test_an_slo_that_the_fastest_clock_cannot_keep_is_refused(slo, text) -> None:
    with pytest.raises(ConfigError, match=text):
        load_scenario(None, {"slo": slo, ARRIVALS: {"duration_s": 1.0}})


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"policies": ["voltina"]}, "policy 'voltina'. Did you mean 'voltana'"),
        ({"workload": {"name": "sharegtp"}}, "'sharegtp'. Did you mean 'sharegpt'"),
        ({"cluster": {"hardware": "a100"}}, "hardware .*'a100'.* Choose one of"),
        ({"cluster": {"model": "llama"}}, "model .*'llama'.* Choose one of"),
    ],
)
def test_unknown_names_list_the_known_ones(flags, text) -> None:
    with pytest.raises(UnknownNameError, match=text):
        load_scenario(None, flags)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read: No such file"),
        ("policies = [", "is not TOML"),
        (b"\xff\xfe\x00", "is not TOML"),
    ],
)
def test_an_unreadable_file_is_one_line(tmp_path, content, text) -> None:
    path = tmp_path / "scenario.toml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=text):
        read_tables(path)
