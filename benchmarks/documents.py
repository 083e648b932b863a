"""Puts what a benchmark measured between the markers of a page, and leaves the rest as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def put_between(path: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two lines of a page.

    Args:
        path: The page.
        begin: The line before; it stays.
        end: The line after; it stays.
        text: What comes between, without the line ends around it.

    Raises:
        ValueError: If the page lacks one of the lines.
    """
    page = path.read_text(encoding="utf-8")
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"{path}: lacks {begin!r} or {end!r} behind it. Put both back.")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
