"""Alert rules and dashboard: valid, tested alert by alert, each with its page of the runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tools.dashboard import FILE, queries, text
from tools.metrics_page import AGENT, DAEMON, ROUTER

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "monitoring" / "prometheus"
RULES = FOLDER / "voltana.rules.yml"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")

GROUPS = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALL = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL if "alert" in rule}
TESTS = yaml.safe_load((FOLDER / "voltana.rules.test.yml").read_text(encoding="utf-8"))["tests"]

NAMED = re.compile(r"\bvoltana_\w+")
SUFFIX = re.compile(r"_(?:bucket|sum|count)$")

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def run(*arguments):
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, cwd=FOLDER, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_promtool_accepts_rules_and_configuration_and_every_alert_s_test():
    run("check", "rules", RULES.name)
    run("check", "config", "--syntax-only", "prometheus.yml")
    run("test", "rules", "voltana.rules.test.yml")


@promtool
def test_promtool_accepts_the_job_for_kubernetes(tmp_path):
    """Debian's Prometheus is built without the discovery of pods: the rest is held to it."""
    made = yaml.safe_load((FOLDER / "kubernetes.yml").read_text(encoding="utf-8"))
    (job,) = made["scrape_configs"]
    assert job["job_name"].startswith("voltana-")
    (found,) = job.pop("kubernetes_sd_configs")
    assert found == {"role": "pod", "namespaces": {"names": ["voltana"]}}
    made["rule_files"] = [str(RULES)]
    (tmp_path / "job.yml").write_text(yaml.safe_dump(made))
    run("check", "config", "--syntax-only", str(tmp_path / "job.yml"))


def test_every_alert_fires_in_a_test_and_is_quiet_in_the_calm():
    fired = {
        case["alertname"]
        for one in TESTS
        for case in one.get("alert_rule_test", ())
        if case["exp_alerts"]
    }
    assert fired == set(ALERTS)
    calm = next(one for one in TESTS if one["name"] == "calm")
    assert any(case["expr"] == "ALERTS" for case in calm["promql_expr_test"])
    fed = {
        NAMED.match(one["series"])[0] for one in calm["input_series"] if one["series"][:3] != "up{"
    }
    watched = {name for rule in ALERTS.values() for name in NAMED.findall(rule["expr"])}
    assert {"voltana_agent_healthy", "voltana_actuatord_marks"} <= fed & watched


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_how_bad_it_is_and_links_to_its_section(name):
    alert = ALERTS[name]
    assert alert["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    section = re.search(rf"^## {name}\n\n\*(\w+)\.\*(.+?)(?=^## |\Z)", RUNBOOK, re.M | re.S)
    assert section is not None, f"docs/runbook.md has no section {name}"
    assert section[1] == alert["labels"]["severity"]
    assert len(section[2].split()) > 25


def test_the_runbook_has_no_section_of_an_alert_that_is_no_more():
    assert set(re.findall(r"^## (\w+)$", RUNBOOK, re.M)) == set(ALERTS)


def test_rules_and_dashboard_name_metrics_and_labels_that_exist():
    known = {metric.name: metric for metric in (*AGENT, *ROUTER, *DAEMON)}
    expressions = [rule["expr"] for rule in ALL] + queries()
    for expression in expressions:
        for found in NAMED.finditer(expression):
            name = found[0]
            metric = known.get(name) or known.get(SUFFIX.sub("", name))
            assert metric is not None, f"{name} in {expression}"
            chosen = re.match(r"\{(.*?)\}", expression[found.end() :])
            for label in re.findall(r"(\w+)=~?\"", chosen[1]) if chosen else ():
                assert label in (*metric.labels, "instance", "job"), (label, expression)
    recorded = {rule["record"] for rule in ALL if "record" in rule}
    used = {name for e in expressions for name in re.findall(r"\bvoltana:[\w:]+", e)}
    assert used <= recorded


def test_the_dashboard_is_as_its_panels_say_and_grafana_can_provision_it():
    assert FILE.read_text(encoding="utf-8") == text(), "run `make metrics`"
    made = json.loads(text())
    assert made["uid"]
    assert made.get("id") is None
    numbers = [panel["id"] for panel in made["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken = set()
    for panel in made["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
    provisioned = FILE.parent / "provisioning"
    for kind in ("dashboards", "datasources"):
        assert yaml.safe_load((provisioned / kind / "voltana.yaml").read_text())["apiVersion"] == 1
