"""What decode has to do and when it can and must be done, in bins of time.

Three things hold for every schedule in which at most `may_miss` requests miss a threshold:

* A token cannot come before its request could have been prefilled and decoded at the fastest clock,
  alone.
* A request that keeps both thresholds is done by arrival + TTFT + (tokens - 1) ITL; those that
  do not are taken to be the longest, and only have to be done by the end.
* Requests are in a batch only between their first token and their last. One that keeps both
  thresholds is there only inside that window, so the batches together are no larger than the
  number of open windows and missed requests: over a bin, and each batch at any instant of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from voltana.slo import Slo
    from voltana.values import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeDemand:
    """Bins of time and what may and must be done by their ends.

    Attributes:
        edges_s: Edges of the bins, shape (bins + 1,).
        most_tokens: Tokens that can be produced by the end of each bin, shape (bins,).
        least_tokens: Tokens that must be, shape (bins,).
        most_kv_tokens: Cached tokens that can have been read by then, shape (bins,).
        least_kv_tokens: Cached tokens that must have been, shape (bins,).
        request_seconds: Most time of all requests together in batches, by bin, shape (bins,).
        most_at_once: Most requests that can be in batches at any instant of each bin, shape
            (bins,).
    """

    edges_s: FloatArray
    most_tokens: FloatArray
    least_tokens: FloatArray
    most_kv_tokens: FloatArray
    least_kv_tokens: FloatArray
    request_seconds: FloatArray
    most_at_once: FloatArray

    @property
    def most_requests(self) -> int:
        """Most requests that can be in batches at once."""
        return int(self.most_at_once.max())


def decode_demand(
    *,
    ready_s: FloatArray,
    latest_s: FloatArray,
    tokens: FloatArray,
    prompt_tokens: FloatArray,
    fastest_s: float,
    slo: Slo,
    may_miss: int,
    edges_s: FloatArray,
) -> DecodeDemand:
    """Work out the demand of requests that have tokens after the first.

    Args:
        ready_s: Earliest first token of each request, shape (n,).
        latest_s: Latest first token that keeps the TTFT threshold, shape (n,).
        tokens: Tokens after the first, at least 1, shape (n,).
        prompt_tokens: Shape (n,).
        fastest_s: Least latency of a decode iteration.
        slo: The thresholds.
        may_miss: Requests that may miss one.
        edges_s: Edges of the bins; all is done by the last one.
    """
    ends_s = edges_s[1:]
    due_s = np.minimum(np.maximum(latest_s, ready_s) + tokens * slo.itl_s, edges_s[-1])
    could = np.array(
        [np.clip((end_s - ready_s) / fastest_s, 0.0, tokens).sum() for end_s in ends_s]
    )
    could_read = np.array(
        [
            _reads(prompt_tokens, np.clip((end_s - ready_s) / fastest_s, 0.0, tokens)).sum()
            for end_s in ends_s
        ]
    )
    reads = _reads(prompt_tokens, tokens)
    could[-1], could_read[-1] = tokens.sum(), reads.sum()
    area, most = _open_windows(ready_s, due_s, edges_s, may_miss)
    return DecodeDemand(
        edges_s=edges_s,
        most_tokens=could,
        least_tokens=_due(tokens, due_s, ends_s, may_miss),
        most_kv_tokens=could_read,
        least_kv_tokens=_due(reads, due_s, ends_s, may_miss),
        request_seconds=area,
        most_at_once=most,
    )


def _reads(prompt_tokens: FloatArray, produced: FloatArray) -> FloatArray:
    """Cached tokens read for tokens 2 to 1 + `produced` of each request."""
    return produced * prompt_tokens + produced * (produced + 1.0) / 2.0


def _due(amount: FloatArray, due_s: FloatArray, ends_s: FloatArray, may_miss: int) -> FloatArray:
    """Amount that must be done by each instant, the largest `may_miss` left out until the end."""
    due = np.empty(len(ends_s))
    for k, end_s in enumerate(ends_s):
        by_then = amount[due_s <= end_s]
        kept = max(0, len(by_then) - may_miss)
        due[k] = np.partition(by_then, kept - 1)[:kept].sum() if kept else 0.0
    due[-1] = amount.sum()
    return due


def _open_windows(
    open_s: FloatArray, close_s: FloatArray, edges_s: FloatArray, may_miss: int
) -> tuple[FloatArray, FloatArray]:
    """Integral over each bin of open windows and missed requests, and the largest number in it."""
    times = np.unique(np.concatenate((open_s, close_s, edges_s)))
    times = times[times <= edges_s[-1]]
    opened = np.searchsorted(np.sort(open_s), times, side="right")
    closed = np.searchsorted(np.sort(close_s), times, side="right")
    number = (opened - closed) + np.minimum(closed, may_miss)
    areas = np.concatenate(([0.0], np.cumsum(number[:-1] * np.diff(times))))
    starts = np.searchsorted(times, edges_s[:-1])  # every edge is one of the times
    return np.diff(np.interp(edges_s, times, areas)), np.maximum.reduceat(number, starts)
