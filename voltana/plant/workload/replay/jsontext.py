"""JSON text to its objects: one a line, the elements of an array, or one document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from voltana.errors import TraceError

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator
    from pathlib import Path

    from voltana.plant.workload.replay.records import Row

_CHUNK = 1 << 18
"""Characters that are read at a time of an array, so that it is never all in memory."""

_SPACE = " \t\r\n"


def json_objects(text: io.TextIOBase, path: Path) -> Iterator[Row]:
    """A stream of (line number, object); objects may be lines, or the elements of one array.

    One object may also take several lines; then it is the only one of the file.

    Raises:
        TraceError: If something in it is no JSON object.
    """
    head = text.read(_CHUNK)
    text.seek(0)
    return _elements(text, path) if head.lstrip().startswith("[") else _lines(text, path)


def _lines(text: io.TextIOBase, path: Path) -> Iterator[Row]:
    first = True
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if first:
                yield number, _document(line + text.read(), path, number)
                return
            raise _no_json(path, number, error) from None
        yield number, _object(row, path, number)
        first = False


def _document(text: str, path: Path, number: int) -> dict[str, Any]:
    try:
        return _object(json.loads(text), path, number)
    except json.JSONDecodeError as error:
        raise _no_json(path, number + error.lineno - 1, error) from None
    except (ValueError, RecursionError) as error:
        raise _no_json(path, number, error) from None


def _elements(text: io.TextIOBase, path: Path) -> Iterator[Row]:
    """The elements of the arrays in a text, each parsed as soon as it is all there."""
    window, inside = _Window(text, path), False
    while (mark := window.skip(_SPACE + "," if inside else _SPACE)) is not None:
        if mark == ("]" if inside else "["):
            inside = not inside
            window.at += 1
        elif inside:
            line = window.line
            yield line, _object(window.value(), path, line)
        else:
            raise _no_json(path, window.line, "something follows the array")
    if inside:
        raise _no_json(path, window.line, "the array does not end")


class _Window:
    """The part of a text that is in memory; `at` and `line` say how far it has been read."""

    def __init__(self, text: io.TextIOBase, path: Path) -> None:
        self._text, self._path = text, path
        self._decoder = json.JSONDecoder()
        self._buffer = ""
        self.at, self.line = 0, 1

    def skip(self, passed: str) -> str | None:
        """Go past these characters; the next one after them, or None at the end of the text."""
        while True:
            while self.at < len(self._buffer) and self._buffer[self.at] in passed:
                self.line += self._buffer[self.at] == "\n"
                self.at += 1
            if self.at < len(self._buffer):
                return self._buffer[self.at]
            if not self._read_on():
                return None

    def value(self) -> object:
        """The JSON value that begins here; the text is read on until it is all there."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self.at)
            except ValueError as error:
                if not self._read_on():
                    raise _no_json(self._path, self.line, error) from None
            except RecursionError as error:
                raise _no_json(self._path, self.line, error) from None
            else:
                self.line += self._buffer.count("\n", self.at, end)
                self.at = end
                return value

    def _read_on(self) -> bool:
        """Drop what was read, and read as much again as is left, so that waits stay few."""
        more = self._text.read(max(_CHUNK, len(self._buffer) - self.at))
        self._buffer, self.at = self._buffer[self.at :] + more, 0
        return bool(more)


def _object(value: object, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TraceError(
            f"{path}, line {number}: is a JSON {type(value).__name__}, not an object. Write one "
            "object a line, or an array of objects."
        )
    return value


def _no_json(path: Path, number: int, error: object) -> TraceError:
    return TraceError(
        f"{path}, line {number}: is not JSON ({error}). Write one object a line, or one array of "
        "them."
    )
