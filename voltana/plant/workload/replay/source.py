"""The text of a trace file, gzipped or not, and the rows of a table as a stream."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from voltana.errors import TraceError
from voltana.plant.workload.replay.engine_log import is_engine_log
from voltana.plant.workload.replay.formats import CSV, JSON, LOG, known_columns, normalise
from voltana.users_file import open_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GZIP_MAGIC = b"\x1f\x8b"

LONGEST_FIELD = 1 << 24
"""Characters of one field: any prompt; more is a quote that is never closed."""

_HEAD = 1 << 18
"""Characters that are looked at to tell what a file is; an engine says much before its first
request."""

_DELIMITERS = ",;\t|"


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOBase]:
    """Open a UTF-8 text file, gzipped or not (told by its first bytes, not by its name).

    Raises:
        TraceError: If the file cannot be read, also while it is being read.
    """
    try:
        with _open_binary(path) as raw:
            gzipped = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            binary = gzip.GzipFile(fileobj=raw) if gzipped else raw
            with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as text:
                yield text
    except UnicodeDecodeError as error:
        raise TraceError(
            f"{path}: is not UTF-8 text ({error.reason}). Convert or unpack it; gzip is understood."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(
            f"{path}: cannot be read ({error}). Check its permissions and that it is complete."
        ) from None


def _open_binary(path: Path) -> BinaryIO:
    try:
        return open_file(path)
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file. Check the path.") from None
    except IsADirectoryError:
        raise TraceError(f"{path}: is a directory. Name one of the files in it.") from None
    except ValueError as error:  # such as a null byte in the path
        raise TraceError(f"{path}: cannot be read ({error}). Check the path.") from None


def sniff_container(text: io.TextIOBase, path: Path) -> str:
    """Whether the file is the log of an engine, JSON objects, or a table.

    Raises:
        TraceError: If it is blank, or binary.
    """
    blank = True
    while blank and (head := text.read(_HEAD)):
        blank = not head.strip()
    if blank:
        raise TraceError(f"{path}: is empty. Name a file with at least one request.")
    text.seek(0)
    first = head.lstrip().partition("\n")[0]
    if any(character < " " and character not in "\t\r" for character in first):
        raise TraceError(
            f"{path}: is binary, not text. Export it as CSV or JSON lines; gzip is understood."
        )
    if is_engine_log(head):
        return LOG
    return JSON if head.lstrip()[0] in "{[" else CSV


def csv_rows(text: io.TextIOBase, path: Path) -> Iterator[tuple[int, list[str]]]:
    """A stream of (line number, cells) without blank lines; the header, normalised, comes first.

    Cells are separated by what the header separates its names with. With semicolons, a comma is
    the mark of decimals, as in the countries where tables are written so.

    Raises:
        TraceError: If a line is no CSV.
    """
    delimiter = _delimiter(text)
    usual_limit = csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(text, delimiter=delimiter, skipinitialspace=True)
    try:
        header = next((cells for cells in reader if any(cells)), [])
        yield reader.line_num, [normalise(name) for name in header]
        for cells in reader:
            if cells:
                yield reader.line_num, _with_points(cells) if delimiter == ";" else cells
    except csv.Error as error:
        raise TraceError(
            f"{path}, line {reader.line_num}: is not CSV ({error}). Repair or remove the line."
        ) from None
    finally:
        csv.field_size_limit(usual_limit)


def _delimiter(text: io.TextIOBase) -> str:
    """What separates the names of the header: that which finds the most columns we know."""
    header = ""
    while not header.strip() and (line := text.readline(_HEAD)):
        header = line
    text.seek(0)
    known = known_columns()

    def found(delimiter: str) -> int:
        return sum(normalise(name.strip(' "\r\n')) in known for name in header.split(delimiter))

    return max(_DELIMITERS, key=found)


def _with_points(cells: list[str]) -> list[str]:
    return [
        cell.replace(",", ".") if cell.count(",") == 1 and "." not in cell else cell
        for cell in cells
    ]
