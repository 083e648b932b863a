"""Which decode batches can run in a bin of time, by the requests that can be there.

A request stays on its instance and is in every batch of it until its end. So whatever runs at an
instant is made of requests that are between their first token and their last then, each with its
own cached tokens: no batch is larger than their number, and one of b requests reads at least what
the b shortest prompts hold, and at most what the b longest contexts do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from voltana.values import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Present:
    """The requests that can be in batches during one bin.

    Attributes:
        most: Most of them at one instant.
        least_kv: Least cached tokens of a batch of 0, 1, 2... requests.
        most_kv: Most of them.
    """

    most: int
    least_kv: FloatArray
    most_kv: FloatArray

    def least_kv_tokens(self, requests: FloatArray) -> FloatArray:
        """Least cached tokens of batches of so many requests; of more than there are, of all."""
        found: FloatArray = self.least_kv[_index(requests, self.least_kv)]
        return found

    def most_kv_tokens(self, requests: FloatArray) -> FloatArray:
        """Most cached tokens of batches of at most so many requests."""
        found: FloatArray = self.most_kv[_index(requests, self.most_kv)]
        return found


def present(
    open_s: FloatArray,
    close_s: FloatArray,
    *,
    prompt_tokens: FloatArray,
    tokens: FloatArray,
    edges_s: FloatArray,
    may_miss: int,
) -> tuple[Present, ...]:
    """The requests that can be in batches, bin by bin.

    One that misses a threshold may be there after its window; so many may.

    Args:
        open_s: Earliest first token of each request, shape (n,).
        close_s: Latest last token of one that keeps its thresholds, shape (n,).
        prompt_tokens: Shape (n,).
        tokens: Tokens after the first, shape (n,).
        edges_s: Edges of the bins.
        may_miss: Requests that may miss a threshold.
    """
    most = _most_at_once(open_s, close_s, edges_s, may_miss)
    shortest, longest = prompt_tokens + 1.0, prompt_tokens + tokens
    made = []
    for start_s, end_s, count in zip(edges_s[:-1], edges_s[1:], most.tolist(), strict=True):
        begun = open_s <= end_s
        there, gone = begun & (close_s >= start_s), begun & (close_s < start_s)
        late_short = np.sort(shortest[gone])[:may_miss]
        late_long = np.sort(longest[gone])[::-1][:may_miss]
        made.append(
            Present(
                most=int(count),
                least_kv=_sums(np.sort(np.append(shortest[there], late_short))),
                most_kv=_sums(np.sort(np.append(longest[there], late_long))[::-1]),
            )
        )
    return tuple(made)


def _most_at_once(
    open_s: FloatArray, close_s: FloatArray, edges_s: FloatArray, may_miss: int
) -> FloatArray:
    """Largest number of open windows and missed requests at any instant of each bin."""
    times = np.unique(np.concatenate((open_s, close_s, edges_s)))
    times = times[times < edges_s[-1]]
    number = number_open(open_s, close_s, times, may_miss)
    starts = np.searchsorted(times, edges_s[:-1])  # every edge but the last is one of the times
    most: FloatArray = np.maximum.reduceat(number, starts)
    return most


def number_open(
    open_s: FloatArray, close_s: FloatArray, times_s: FloatArray, may_miss: int
) -> FloatArray:
    """Open windows and missed requests from each instant on, up to the next window's edge."""
    opened = np.searchsorted(np.sort(open_s), times_s, side="right")
    closed = np.searchsorted(np.sort(close_s), times_s, side="right")
    number = (opened - closed) + np.minimum(closed, may_miss)
    return number.astype(np.float64)


def _sums(amounts: FloatArray) -> FloatArray:
    """Sums of the first 0, 1, 2... of them."""
    sums: FloatArray = np.concatenate(([0.0], np.cumsum(amounts)))
    return sums


def _index(requests: FloatArray, sums: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return np.minimum(requests, len(sums) - 1).astype(np.intp)
