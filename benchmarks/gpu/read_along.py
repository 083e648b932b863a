"""Read something bounded while something else goes on: a ring holds far fewer than a run makes."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PERIOD_S = 0.1
"""A ring of 1,024 records holds 512 iterations: at least a quarter of a second of the fastest."""

Read = TypeVar("Read")


@contextlib.contextmanager
def read_along(drain: Callable[[], Iterable[Read]]) -> Iterator[list[Read]]:
    """Collect what `drain` gives until the end, from a thread of its own."""
    read: list[Read] = []
    over = threading.Event()

    def follow() -> None:
        while not over.wait(PERIOD_S):
            read.extend(drain())

    reader = threading.Thread(target=follow, name="read-along")
    reader.start()
    try:
        yield read
    finally:
        over.set()
        reader.join()
        read.extend(drain())
