"""Tables for a terminal in which no word is wrapped or cut, however narrow it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


def print_fitting(
    headers: Sequence[str], cells: Sequence[tuple[str, ...]], console: Console, *, texts: int = 1
) -> None:
    """Print a table: with less space between columns where that makes it fit, or beyond the edge.

    Args:
        headers: Of the columns; each word on a line of its own.
        cells: Row by row.
        console: Where to; its width is as before afterwards.
        texts: So many columns, the first ones, are texts; the others are figures.
    """
    roomy, close = (_table(headers, cells, gap=gap, texts=texts) for gap in (3, 1))
    table = roomy if _width(roomy, console) <= console.width else close
    width = console.width
    console.width = max(width, _width(table, console))
    console.print(table)
    console.width = width


def _width(table: Table, console: Console) -> int:
    """Characters that the table takes with nothing wrapped or cut."""
    return console.measure(table, options=console.options.update(max_width=1000)).maximum


def _table(
    headers: Sequence[str], cells: Sequence[tuple[str, ...]], *, gap: int, texts: int
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False)
    for index, header in enumerate(headers):
        table.add_column(
            header.replace(" ", "\n"),
            justify="left" if index < texts else "right",
            no_wrap=True,
            style="bold" if index == 0 else None,
        )
    for row in cells:
        table.add_row(*row)
    return table
