"""What is exposed is what is declared, all of it, and promtool finds no fault in it."""

from __future__ import annotations

import math
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tools.metrics_page import AGENT, DAEMON, ROUTER
from voltana.cluster.ledger import Ledger
from voltana.serving.agent import metrics_declared as told
from voltana.serving.agent.metrics import render
from voltana.serving.router.energy_split import EnergySplit
from voltana.serving.router.metrics import Metrics
from voltana.timebase import MonotonicTime
from voltana.values import Role
from voltana_actuatord.metrics.declared import Metric
from voltana_actuatord.metrics.exposition import exposed
from voltana_actuatord.metrics.of_daemon import families

STATUS = {
    "instance": "decode-0",
    "role": "decode",
    "health": "ok",
    "gpus": ["GPU-1"],
    "energy_by_source_j": {"counter": 5.0, "power": 0.5},
    "slo_events": {"itl": {"target": 0.99, "events": 5, "late": 1}},
    **dict.fromkeys(told.FLAT, 1.0),
    **{key: {"kind": 1} for key in told.BY_KIND},
    "guarantee": {
        **dict.fromkeys(told.GUARANTEE, 1),
        "unlabelled": {"cause": 1},
        "requests": {"itl": dict.fromkeys(told.REQUESTS, 1)},
    },
    "viability": dict.fromkeys(told.VIABILITY, 1),
    "steering": {"token": "output", "marginal_j": 0.5, **dict.fromkeys(told.HEAD_ROOM, 1)},
    "prediction": {"decode": dict.fromkeys(told.ERRORS, 1.0)},
}

DAEMON_STATUS = {
    "uptime_s": 5.0,
    "connections": 1,
    "counters": dict.fromkeys(
        ("granted", "refused", "lapsed", "revoked", "clock_changes", "driver_failures",
         "strangers", "crowded_out", "protocol_errors", "lines_dropped"), 1,
    ),
    "parent": {"marks": 1, "quarantined": 0, "worker_starts": 1, "lines_dropped": 0},
    "gpu_states": dict.fromkeys(
        ("lent", "default", "watched", "doubtful", "restoring", "foreign"), 1
    ),
    "leased_gpus": 1,
    "gpus": [{"uuid": "GPU-1", "state": "lent", "clock_mhz": 1005.0, "foreign": True}],
    "leases": [{"active": True, "target_mhz": 1005.0, "devices": ["GPU-1"]}],
}  # fmt: skip


class Nobody:
    """No servers."""

    def __iter__(self):
        return iter(())


def of_router():
    metrics, energy = Metrics(Nobody(), Ledger(), MonotonicTime()), EnergySplit(lambda: 0.0)
    metrics.split(energy)
    energy.began("team-a", 5)
    energy.by_tenant_j["team-a", "decode"] += 1.0
    energy.unattributed_j["decode"] += 1.0
    metrics.ended("/generate", "completed")
    metrics.chosen(Role.DECODE, "feed")
    metrics.retried("decode-0")
    metrics.first_token(0.1)
    return metrics.text()


TEXTS = {
    "agent": render(STATUS)[0],
    "router": of_router(),
    "daemon": exposed(families(DAEMON_STATUS)),
}


def parsed(text):
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


@pytest.mark.parametrize(("who", "declared"), [("agent", AGENT), ("daemon", DAEMON)])
def test_all_that_is_declared_is_exposed_and_nothing_else(who, declared):
    found = parsed(TEXTS[who])
    assert set(found) == {metric.name.removesuffix("_total") for metric in declared}
    for metric in declared:
        family = found[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        for sample in family.samples:
            assert set(sample.labels) == set(metric.labels)


def test_what_a_router_exposes_is_declared():
    names = {metric.name.removesuffix("_total") for metric in ROUTER}
    assert {name.removesuffix("_created") for name in parsed(TEXTS["router"])} <= names


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("who", TEXTS)
def test_promtool_finds_no_fault(who):
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=TEXTS[who], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_an_older_daemon_s_status_has_fewer_figures_and_no_error():
    old = {"pid": 1, "uptime_s": 3.0, "connections": 0, "gpus": [], "leases": [], "last_error": ""}
    assert set(parsed(exposed(families(old)))) == {
        f"voltana_actuatord_{name}"
        for name in ("up", "leases", "connections", "worker_uptime_seconds")
    }


PLAIN = Metric(name="voltana_x_things", kind="gauge", help='Odd \\ "help".', labels=("a", "b"))


@given(
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r")),
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r")),
    st.floats(),
)
def test_any_label_and_any_figure_is_read_as_it_was_written(first, second, figure):
    text = exposed([(PLAIN, [((first, second), figure)])])
    assert text.count(b"\n") == 3
    (family,) = parsed(text).values()
    (sample,) = family.samples
    assert sample.labels == {"a": first, "b": second}
    assert sample.value == figure or (math.isnan(sample.value) and math.isnan(figure))
    assert family.documentation == PLAIN.help
