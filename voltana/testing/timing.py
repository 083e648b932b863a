"""Measures how long a call takes, in a way that a busy machine disturbs little."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def fastest_s(call: Callable[[], object], repeats: int = 20) -> float:
    """Least time that one of `repeats` calls took: noise of the machine only ever adds to it."""
    best_s = float("inf")
    for _ in range(repeats):
        started_s = time.perf_counter()
        call()
        best_s = min(best_s, time.perf_counter() - started_s)
    return best_s
