"""The account of each agent's guarantee, as `voltana top` shows it (docs/guarantee.md)."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from voltana.cli.top_values import number, table_of, value_of

_COLUMNS = {
    "certified": "certified",
    "missed": "missed",
    "most": "bound",
    "violated": "violated",
    "forgiven": "forgiven",
    "overdue": "overdue",
    "blocked": "blocked",
    "lost": "lost",
}
"""Titles, and what they are called in a status."""


def accounts(statuses: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One table with a row for each agent that promises; none where nobody does."""
    told = [(said, table_of(said, "guarantee")) for said in statuses]
    told = [(said, account) for said, account in told if value_of(account, "certified") is not None]
    if not told:
        return []
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("account", no_wrap=True)
    for title in _COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("why lost")
    for said, account in told:
        cells = [number(account, key) for key in _COLUMNS.values()]
        table.add_row(Text(str(said.get("instance", "-"))), *cells, _causes(account))
    return [table]


def _causes(account: Mapping[str, Any]) -> Text:
    """Why certified decisions have no label."""
    causes = table_of(account, "unlabelled")
    counts = [(str(cause), value_of(causes, cause)) for cause in causes]
    return Text(", ".join(f"{cause} {count:.0f}" for cause, count in counts if count))
