"""Every metric is declared once, by convention, and documented as it is declared."""

from __future__ import annotations

import pytest

from tools.metrics_page import AGENT, DAEMON, PAGE, ROUTER, page
from voltana_actuatord.metrics.declared import Metric

GOOD = {"name": "voltana_x_energy_joules_total", "kind": "counter", "help": "Energy."}


def test_the_page_is_as_the_declarations_say():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make metrics`"
    assert len(page().splitlines()) < 300


def test_names_are_unique_and_their_prefix_says_who_tells_them():
    names = [metric.name for metric in (*AGENT, *ROUTER, *DAEMON)]
    assert len(set(names)) == len(names) > 70
    for metrics, prefix in (
        (AGENT, "voltana_agent_"),
        (ROUTER, "voltana_router_"),
        (DAEMON, "voltana_actuatord_"),
    ):
        assert all(metric.name.startswith(prefix) for metric in metrics)


@pytest.mark.parametrize(
    "broken",
    [
        {"name": "voltana_x_energy_joules"},
        {"name": "voltana_x_waiting_ms_total"},
        {"name": "voltana_x_clock_mhz_total"},
        {"name": "voltana_x_share_percent_total"},
        {"name": "energy_joules_total"},
        {"name": "voltana_Energy_total"},
        {"kind": "gauge"},
        {"kind": "summary"},
        {"help": "energy"},
        {"help": ""},
        {"labels": ("instance",)},
        {"labels": ("role", "role")},
        {"labels": ("Role",)},
        {"kind": "histogram", "name": "voltana_x_latency"},
    ],
    ids=str,
)
def test_what_is_against_the_conventions_cannot_be_declared(broken):
    Metric(**GOOD)
    with pytest.raises(ValueError, match="metric "):
        Metric(**GOOD | broken)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("voltana_x_energy_joules_total", "joules"),
        ("voltana_x_drifts_total", ""),
    ],
)
def test_the_unit_is_that_of_the_name(name, unit):
    assert Metric(name=name, kind="counter", help="It is.").unit == unit
