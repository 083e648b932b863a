"""The examples for llm-d's endpoint picker: accepted by what is published of it, and of use."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.operations.llm_d import EndpointPickerConfig, scores, selected
from tools.metrics_page import AGENT
from voltana.serving.agent.metrics import render

ROOT = Path(__file__).parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "examples" / "llm-d").glob("*.yaml"))}
DECLARED = {metric.name: metric for metric in AGENT}


def loaded(name):
    return yaml.safe_load(FILES[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_the_published_types_accept_it(name):
    EndpointPickerConfig.model_validate(loaded(name))


def test_there_is_one_for_each_kind_of_cluster():
    assert set(FILES) == {"epp-unified", "epp-pairs"}


def broken(change):
    tables = copy.deepcopy(loaded("epp-unified"))
    change(tables)
    return tables


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update(pluginz=[]), "Extra inputs"),
        (lambda t: t.update(apiVersion="v1"), "llm-d.ai/v1alpha1"),
        (lambda t: t["schedulingProfiles"][0]["plugins"][0].update(pluginRef="x"), "no plugin"),
        (lambda t: t["plugins"].append({"type": "queue-scorer"}), "stands twice"),
        (lambda t: t["plugins"].append({"type": "my-scorer"}), "is unknown here"),
        (lambda t: t["plugins"][2]["parameters"].update(prot=1), "Extra inputs"),
        (lambda t: t["plugins"][4]["parameters"].update(attributeKey=""), "at least 1 character"),
        (lambda t: t["plugins"].append({"type": "disagg-profile-handler", "parameters": {
            "deciders": {"prefill": "queue-scorer"}}}), "must be one"),
    ],
)  # fmt: skip
def test_what_the_picker_would_refuse_is_refused_here(change, said):
    with pytest.raises(ValueError, match=said):
        EndpointPickerConfig.model_validate(broken(change))


@pytest.mark.parametrize("name", FILES)
def test_it_reads_what_agents_tell_at_the_port_where_they_do(name):
    config = EndpointPickerConfig.model_validate(loaded(name))
    (engine,) = config.named("voltana-extractor").engine_configs
    for metric in engine.custom_metrics:
        found, labels = selected(metric.metric_spec)
        assert DECLARED[found].kind == "gauge"
        assert set(labels) <= set(DECLARED[found].labels)
    read = {metric.attribute_key for metric in engine.custom_metrics}
    assert read == {config.named(n).attribute_key for n in ("least-energy", "has-room")}
    manifest = (ROOT / "deploy" / "kubernetes" / "cluster.yaml").read_text(encoding="utf-8")
    (text,) = [
        found["data"]["cluster.toml"]
        for found in yaml.safe_load_all(manifest)
        if found["kind"] == "ConfigMap"
    ]
    assert config.named("voltana-source").port == tomllib.loads(text)["agent"]["metrics_port"]


def scraped(config, status):
    """Attributes that the extractor would make of what an agent tells."""
    families = {
        sample.name: sample
        for family in text_string_to_metric_families(render(status)[0].decode())
        for sample in family.samples
    }
    found = {}
    for metric in config.named("voltana-extractor").engine_configs[0].custom_metrics:
        name, labels = selected(metric.metric_spec)
        sample = families.get(name)
        if sample is not None and labels.items() <= sample.labels.items():
            found[metric.attribute_key] = sample.value
    return found


@pytest.mark.parametrize("name", FILES)
def test_requests_go_where_a_token_costs_least_while_there_is_room(name):
    config = EndpointPickerConfig.model_validate(loaded(name))
    told = {
        "cheap-but-full": {"token": "output", "head_room_requests": 0},
        "cheap": {"token": "output", "marginal_j": 0.1, "head_room_requests": 40},
        "dear": {"token": "output", "marginal_j": 0.9, "head_room_requests": 400},
        "nearly-full": {"token": "output", "marginal_j": 0.05, "head_room_requests": 1},
    }
    read = {
        name: scraped(config, {"instance": name, "steering": steering})
        for name, steering in told.items()
    }
    profile = config.scheduling_profiles[-1]
    weights = {one.plugin_ref: one.weight for one in profile.plugins if one.weight}
    total = dict.fromkeys(told, 0.0)
    for scorer in ("least-energy", "has-room"):
        parameters = config.named(scorer)
        values = {name: found.get(parameters.attribute_key) for name, found in read.items()}
        for server, score in scores(values, parameters).items():
            total[server] += weights[scorer] * score
    ranked = sorted(total, key=total.get, reverse=True)
    assert ranked == ["cheap", "dear", "nearly-full", "cheap-but-full"]
