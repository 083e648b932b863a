"""Reads a file that a user names, whatever is in it and whatever it is."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tomllib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

MOST_BYTES = 1 << 26
"""No table of numbers is longer."""

MOST_TOML_BYTES = 1 << 24
"""Its parser takes a second by megabyte."""

MOST_PARTS = 64
"""Parts of a dotted key of TOML: Python's parser takes the square of their number, and no table
that is read here is a tenth as deep."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_PART = r"""(?:[\w-]++|"(?:[^"\\\n]|\\[^\n])*+"|'[^'\n]*+')"""
_PARTS = re.compile(_PART)
_TOKEN = re.compile(
    r'(?P<text>"""(?:[^\\]|\\.)*?"{3,5}' + r"|'''.*?'{3,5})"
    r"""|(?P<unending>\"\"\"|''')"""
    r"|(?P<remark>\#[^\n]*+)"
    rf"|(?P<key>{_PART}(?:[ \t]*+\.[ \t]*+{_PART})*+)"
    r"""|(?P<open>["'])"""
    r"""|[^\w"'\#-]++""",
    re.DOTALL,
)
"""What TOML is made of, as far as it decides where a dotted key stands; `open` and
`unending` have no end."""


def open_file(path: Path) -> BufferedReader:
    """Open a regular file for reading; what is none would be waited for, or has no end.

    Raises:
        OSError: If it cannot be opened, or is something else.
        ValueError: If the path is none.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_regular(path, os.fstat(handle).st_mode)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _check_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        what = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is {what}, and must be a regular file", str(path))


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The text of a file, with or without a byte order mark.

    Args:
        path: The file.
        most_bytes: How long it may be.

    Raises:
        OSError: If it cannot be read, or is no regular file.
        ValueError: If it is longer, or not UTF-8.
    """
    with open_file(path) as file:
        raw = file.read(most_bytes + 1)
    if raw is None:  # some files of the kernel's are regular, and have nothing to say yet
        raise OSError(errno.EAGAIN, "it has nothing to read yet, as no file of a user's", str(path))
    if len(raw) > most_bytes:
        raise ValueError(f"it is longer than {most_bytes} bytes")
    return raw.decode("utf-8-sig")


def read_number(text: str) -> float:
    """A number as tables have it.

    Python takes digits of all scripts, and ``0_25`` for 25, which is a slip of the pen in a table.

    Raises:
        ValueError: If it is none.
    """
    return float(_plain(text))


def read_whole(text: str) -> int:
    """A whole number, likewise.

    Raises:
        ValueError: If it is none.
    """
    return int(_plain(text))


def _plain(text: str) -> str:
    if not text.isascii() or "_" in text:
        raise ValueError(f"could not convert string to float: {text!r}")
    return text


def load_json(text: str) -> Any:
    """A JSON value, in which no object names a field twice.

    Raises:
        ValueError: If it is none, or lies too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def load_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ValueError: If it is none, or lies too deep, or has a number of thousands of digits.
    """
    _check_keys(text)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_toml(path: Path, most_bytes: int = MOST_TOML_BYTES) -> dict[str, Any]:
    """The tables of a TOML file; see `read_text` and `load_toml`."""
    return load_toml(read_text(path, most_bytes))


def _check_keys(text: str) -> None:
    """Refuse a dotted key of too many parts before it is parsed.

    A key stands on one line, so that one with fewer dots holds none.
    """
    if all(line.count(".") < MOST_PARTS for line in text.split("\n")):
        return
    for token in _TOKEN.finditer(text):
        if token.lastgroup in {"open", "unending"}:
            return  # the parser goes no further
        if token.lastgroup == "key" and len(_PARTS.findall(token[0])) > MOST_PARTS:
            line = text.count("\n", 0, token.start()) + 1
            raise ValueError(f"the key in line {line} must have at most {MOST_PARTS} dotted parts")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r:.80} stands twice in one object")
    return found
