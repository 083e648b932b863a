"""Writes docs/metrics.md from the declarations of all metrics: ``python -m tools.metrics_page``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from voltana.serving.agent.metrics_declared import METRICS as AGENT
from voltana.serving.router.metrics_declared import METRICS as ROUTER
from voltana_actuatord.metrics.of_daemon import METRICS as DAEMON

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voltana_actuatord.metrics.declared import Metric

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

HEAD = Path(__file__).with_name("metrics_page.head.md")


def page() -> str:
    """The page as it should be."""
    parts = [
        HEAD.read_text(encoding="utf-8"),
        _section(
            "Agent",
            "`backend` is the instance's name, as the router has it. What a policy or an engine "
            "does not tell is absent.",
            AGENT,
        ),
        _section("Router", "A histogram has the usual series `_bucket`, `_sum`, `_count`.", ROUTER),
        _section(
            "Daemon", "Counters begin anew with each worker, but for those of its parent.", DAEMON
        ),
    ]
    return "\n".join(parts)


def _section(title: str, text: str, metrics: Iterable[Metric]) -> str:
    rows = [
        f"| `{one.name}` | {one.kind} | {one.unit or '-'} | "
        f"{', '.join(f'`{label}`' for label in one.labels) or '-'} | {one.help} |"
        for one in metrics
    ]
    head = ["| metric | type | unit | labels | what |", "|---|---|---|---|---|"]
    return "\n".join([f"## {title}", "", text, "", *head, *rows, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
