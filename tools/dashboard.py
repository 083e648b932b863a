"""Writes the Grafana dashboard, ``deploy/monitoring/grafana/voltana.json``, from its panels.

``python -m tools.dashboard``. A test holds the file against this, and every query against a real
Prometheus (`make test-prometheus`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.dashboard_panels import ROWS

if TYPE_CHECKING:
    from tools.dashboard_panels import Panel

FILE = Path(__file__).parents[1] / "deploy" / "monitoring" / "grafana" / "voltana.json"

WIDTH, HEIGHT = 8, 7
"""Of a panel, in Grafana's grid of 24 columns."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana provisions it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        grid = {"h": 1, "w": 24, "x": 0, "y": y}
        panels.append({"type": "row", "title": title, "id": len(panels) + 1, "gridPos": grid})
        y += 1
        for index, panel in enumerate(row):
            x = WIDTH * (index % 3)
            place = {"h": HEIGHT, "w": WIDTH, "x": x, "y": y + HEIGHT * (index // 3)}
            panels.append(_panel(panel, len(panels) + 1, place))
        y += HEIGHT * -(-len(row) // 3)
    return {
        "uid": "voltana",
        "title": "voltana",
        "tags": ["voltana"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source_choice(), _backend_choice()]},
        "panels": panels,
    }


def queries() -> list[str]:
    """Every query of every panel, and those of the choices."""
    panels = [query for row in ROWS.values() for panel in row for query, _ in panel.queries]
    return [*panels, "voltana_agent_healthy"]


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "id": number,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for i, (expr, legend) in enumerate(panel.queries)
        ],
    }


def _source_choice() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}


def _backend_choice() -> dict[str, Any]:
    return {
        "name": "backend",
        "type": "query",
        "label": "Instance",
        "datasource": SOURCE,
        "query": {"query": "label_values(voltana_agent_healthy, backend)", "refId": "backends"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def text() -> str:
    """The file as it should be."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
