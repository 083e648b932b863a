"""The text of a trace file, gzipped or not, and its rows as a stream."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from voltana.errors import TraceError
from voltana.plant.workload.replay.formats import normalise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

GZIP_MAGIC = b"\x1f\x8b"


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
        return path.open("rb")
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file. Check the path.") from None
    except IsADirectoryError:
        raise TraceError(f"{path}: is a directory. Name one of the trace files in it.") from None
    except ValueError as error:  # such as a null byte in the path
        raise TraceError(f"{path}: cannot be read ({error}). Check the path.") from None


def sniff_container(text: io.TextIOBase, path: Path) -> str:
    """``jsonl`` if the first character that is not blank opens a JSON object, else ``csv``.

    Raises:
        TraceError: If there is no such character.
    """
    while line := text.readline(1 << 16):
        if start := line.lstrip():
            text.seek(0)
            return "jsonl" if start[0] in "{[" else "csv"
    raise TraceError(f"{path}: is empty. Name a file with at least one request.")


def csv_rows(text: io.TextIOBase, path: Path) -> Iterator[tuple[int, list[str]]]:
    """A stream of (line number, cells) without blank lines; the header, normalised, comes first.

    Raises:
        TraceError: If a line is no CSV.
    """
    reader = csv.reader(text)
    header = True
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, [normalise(c) for c in cells] if header else cells
                header = False
    except csv.Error as error:
        raise TraceError(
            f"{path}, line {reader.line_num}: is not CSV ({error}). Repair or remove the line."
        ) from None


def json_rows(text: io.TextIOBase, path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """A stream of (line number, object with normalised keys) without blank lines.

    Raises:
        TraceError: If a line is no JSON object.
    """
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TraceError(
                f"{path}, line {number}: is not JSON ({error}). Write one object a line."
            ) from None
        if not isinstance(row, dict):
            raise TraceError(
                f"{path}, line {number}: is a JSON {type(row).__name__}, not an object. Write one "
                "object a line."
            )
        yield number, {normalise(key): value for key, value in row.items()}
