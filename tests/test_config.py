"""Scenario files: every mistake is one line that names the key, the range and the remedy."""

from __future__ import annotations

import dataclasses
import re

import pytest

from voltana.config import DEFAULT_POLICIES, EngineTable, parse_scenario
from voltana.errors import ConfigError, UnknownNameError
from voltana.plant.cluster import EngineOptions


def test_an_empty_file_is_the_demo() -> None:
    file = parse_scenario({})
    assert file.policies == DEFAULT_POLICIES
    assert (file.cluster.hardware, file.cluster.model) == ("a100-sxm4-80gb", "llama-3.1-8b")
    assert (file.cluster.prefill, file.cluster.decode) == (2, 2)
    assert file.workload is not None
    assert (file.workload.name, file.workload.rate_rps) == ("sharegpt", 60)
    assert file.workload.duration_s == 120


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        ({"cluster": {"prefill": 0}}, "cluster.prefill = 0 .* at least 1. .*--prefill"),
        ({"cluster": {"decode": 1.5}}, "cluster.decode = 1.5 .* whole number"),
        ({"cluster": {"decode": True}}, "cluster.decode = True .* number"),
        ({"cluster": 3}, "cluster = 3 .* a table"),
        ({"slo": {"ttft_ms": -3}}, "slo.ttft_ms = -3 .* above 0. .*--slo-ttft-ms"),
        ({"slo": {"itl_ms": "fast"}}, "slo.itl_ms = 'fast' .* a number"),
        ({"slo": {"itl_ms": float("inf")}}, "slo.itl_ms = inf .* finite"),
        ({"slo": {"ttft_target": 1}}, "slo.ttft_target = 1 .* below 1"),
        ({"workload": {"rate_rps": 0}}, "workload.rate_rps = 0 .* above 0. .*--rate"),
        ({"workload": {"arrival": "steady"}}, "workload.arrival = 'steady' .* 'poisson', 'gamma'"),
        ({"workload": {"cv": 2}}, "workload.cv = 2.0 .* --arrival gamma"),
        ({"trace": {"format": "azure"}}, "trace.file = None .* given. .*--trace"),
        ({"workload": {}, "trace": {"file": "x"}}, "both 'workload' and 'trace'.* Remove"),
        ({"policies": []}, "policies = .* at least one. .*--policy"),
        ({"policies": "voltana"}, "policies = 'voltana' .* a list"),
        ({"seed": -1}, "seed = -1 .* at least 0"),
        ({"engine": {"latency_noise": -0.1}}, "engine.latency_noise = -0.1 .* at least 0"),
    ],
)
def test_a_mistake_names_key_range_and_remedy(tables, text) -> None:
    with pytest.raises(ConfigError, match=re.compile(text)) as caught:
        parse_scenario(tables)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        ({"clusters": {}}, "unknown key 'clusters'. Did you mean 'cluster'"),
        ({"cluster": {"prefil": 1}}, r"\[cluster\] 'prefil'. Did you mean 'prefill'"),
        ({"trace": {"file": "x", "fromat": "azure"}}, r"\[trace\] 'fromat'. Did you mean 'format'"),
        ({"engine": {"transfers": True}}, r"\[engine\] 'transfers'. Did you mean 'transfer'"),
    ],
)
def test_unknown_keys_are_errors_that_list_the_known_ones(tables, text) -> None:
    with pytest.raises(UnknownNameError, match=text):
        parse_scenario(tables)


def test_every_engine_option_can_be_written_in_a_file() -> None:
    known = {field.name for field in dataclasses.fields(EngineOptions)}
    assert set(EngineTable.model_fields) == known
