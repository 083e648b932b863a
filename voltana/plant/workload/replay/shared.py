"""What a trace says of beginnings that its prompts share: `hash_ids`, or cached tokens."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.errors import TraceError
from voltana.plant.workload.prefixes import Prefixes
from voltana.plant.workload.replay.columns import ColumnReader

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from pathlib import Path

    from voltana.plant.workload.prefixes import IntArray
    from voltana.plant.workload.replay.formats import TraceFormat
    from voltana.values import FloatArray

_SEPARATORS = re.compile(r"[\s,;|]+")
_SHOWN = 40
_MOST = 2**63
"""Numbers below it are kept as they are: a million of them in a dictionary take 130 MB."""


class SharedColumns:
    """Reads the columns of a file that say what its prompts share, where it has any.

    Args:
        file: Its path, for errors.
        chosen: Its format.
        keys: Where the cell of each column is in a row, by the column's name.
    """

    def __init__(self, file: Path, chosen: TraceFormat, keys: Mapping[str, Any]) -> None:
        blocks = next((name for name in chosen.blocks if name in keys), None)
        cached = next((name for name in chosen.cached if name in keys), None)
        self._file = file
        self._block_tokens = chosen.block_tokens
        self._blocks = None if blocks is None else (blocks, keys[blocks])
        self._cached = None if cached is None else (cached, keys[cached])
        self._reader = ColumnReader(str(file), cached or "")
        self._numbers: dict[Hashable, int] = {}
        self._flat: list[IntArray] = []
        self._lengths: list[IntArray] = []
        self._found: list[FloatArray] = []

    @property
    def prefixes(self) -> Prefixes | None:
        """The blocks of all rows read; None where no row has any."""
        if not any(len(ids) for ids in self._flat):
            return None
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(self._lengths))])
        return Prefixes(
            ids=np.concatenate(self._flat), starts=starts, block_tokens=self._block_tokens
        )

    @property
    def cached_tokens(self) -> FloatArray | None:
        """Tokens found in a cache, of all rows read; None where there never were any."""
        found = np.concatenate(self._found) if self._found else np.zeros(0)
        return found if found.any() else None

    def read(self, lines: Sequence[int], rows: Sequence[Any], prompt_tokens: FloatArray) -> None:
        """Take in some rows.

        Args:
            lines: Their lines in the file.
            rows: Their cells.
            prompt_tokens: Of each, shape (rows,).

        Raises:
            TraceError: If a cell is neither empty nor what it should be, or a prompt is shorter
                than its blocks.
        """
        if self._blocks is not None:
            name, key = self._blocks
            lists = [
                self._ids(line, name, _cell(row, key))
                for line, row in zip(lines, rows, strict=True)
            ]
            lengths = np.fromiter(map(len, lists), np.int64, len(lists))
            self._check_fits(name, lines, lengths, prompt_tokens)
            self._lengths.append(lengths)
            self._flat.append(np.fromiter((i for ids in lists for i in ids), np.int64))
        if self._cached is not None:
            cells = [_cell(row, self._cached[1]) or 0 for row in rows]
            self._found.append(self._reader.tokens(cells, lines))

    def _check_fits(
        self, name: str, lines: Sequence[int], lengths: IntArray, prompt_tokens: FloatArray
    ) -> None:
        """A prompt that is shorter than its blocks would find more in a cache than it has.

        One without tokens is a failure that was recorded, and is dropped later.
        """
        most = np.ceil(prompt_tokens / self._block_tokens)
        wrong = np.flatnonzero((prompt_tokens > 0) & (lengths > most))
        if len(wrong):
            at = int(wrong[0])
            raise TraceError(
                f"{self._file}, line {lines[at]}, column {name!r}: {lengths[at]} blocks of "
                f"{self._block_tokens} tokens are not allowed: must be at most {most[at]:.0f}, as "
                f"the prompt has {prompt_tokens[at]:.0f} tokens. Correct the line, or leave the "
                "column out."
            )

    def _ids(self, line: int, name: str, cell: object) -> list[int]:
        """Numbers of blocks; whatever a file calls them, equal names become equal numbers."""
        if cell is None or cell == "":
            return []
        names = _SEPARATORS.split(cell.strip(" []")) if isinstance(cell, str) else cell
        good = isinstance(names, list) and all(type(each) in {int, str} for each in names)
        if not good or not isinstance(names, list):
            shown = repr(cell)
            raise TraceError(
                f"{self._file}, line {line}, column {name!r}: "
                f"{shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'} is not allowed: must "
                "be a list of the numbers or names of the prompt's blocks. Correct the line, or "
                "leave the column out."
            )
        return [
            each if type(each) is int and 0 <= each < _MOST else self._number(each)
            for each in names
            if each != ""
        ]

    def _number(self, name: Hashable) -> int:
        """The number of a block that is none itself; below 0, where no file's numbers are."""
        return self._numbers.setdefault(name, -1 - len(self._numbers))


def _cell(row: Any, key: Any) -> object:
    if isinstance(row, dict):
        return row.get(key)
    return row[key] if key < len(row) else None
