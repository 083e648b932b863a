"""Sources in published wheels, read without fetching the wheels: those of engines are large.

A wheel is a ZIP archive: its list of files is at its end, and a server sends any part of it. Where
it lies pip says.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.request
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMEOUT_S = 60.0
_BLOCK = 1 << 18
"""Bytes that are asked for at once: a list of files is read in many small pieces."""


class RemoteFile(io.RawIOBase):
    """A file behind a URL, of which only the parts are fetched that are read.

    Args:
        url: Where it is.

    Raises:
        OSError: If it cannot be reached, or its server sends no parts.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._at = 0
        self._blocks: dict[int, bytes] = {}
        self._size = self._ask_size()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move there."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read the next bytes, at most to the end of a block."""
        number, within = divmod(self._at, _BLOCK)
        if self._at >= self._size:
            return 0
        if number not in self._blocks:
            last = min((number + 1) * _BLOCK, self._size) - 1
            self._blocks[number] = self._part(number * _BLOCK, last)
        found = self._blocks[number][within : within + len(buffer)]
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def _ask_size(self) -> int:
        with self._open("bytes=0-0") as reply:
            return int(reply.headers["Content-Range"].rpartition("/")[2])

    def _part(self, first: int, last: int) -> bytes:
        with self._open(f"bytes={first}-{last}") as reply:
            content: bytes = reply.read()
        return content

    def _open(self, part: str):  # type: ignore[no-untyped-def]
        request = urllib.request.Request(self._url, headers={"Range": part})
        reply = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
        if reply.status != 206:
            reply.close()
            raise OSError(f"{self._url}: its server sends no parts (status {reply.status})")
        return reply


def wheel_url(requirement: str) -> str:
    """Where the wheel of a requirement such as ``vllm==0.33.0`` is, as pip finds it."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
    pip += ["--no-deps", "--only-binary=:all:", "--report", "-", requirement]
    found = subprocess.run(pip, check=True, stdout=subprocess.PIPE, text=True).stdout
    url: str = json.loads(found)["install"][0]["download_info"]["url"]
    return url


def published(requirement: str) -> Callable[[str], str]:
    """A reader of the sources in a published wheel, by their paths.

    Args:
        requirement: Name and version of a distribution.
    """
    archive = zipfile.ZipFile(io.BufferedReader(RemoteFile(wheel_url(requirement)), _BLOCK))
    return lambda path: archive.read(path).decode()
