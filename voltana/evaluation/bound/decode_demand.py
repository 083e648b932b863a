"""What decode has to do and when it can and must be done, in bins of time.

Three things hold for every schedule in which at most `may_miss` requests miss a threshold:

* A token cannot come before its request could have been prefilled and decoded at the fastest clock,
  alone.
* A request that keeps both thresholds is done by arrival + TTFT + (tokens - 1) ITL; those that
  do not are taken to be the longest, and only have to be done by the end.
* Requests are in a batch only between their first token and their last. One that keeps both
  thresholds is there only inside that window, so the batches together are no larger than the
  number of open windows and missed requests; `present` has what else follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.bound.present import number_open, present

if TYPE_CHECKING:
    from voltana.evaluation.bound.present import Present
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
        present: What can be in batches in each bin, of length bins.
    """

    edges_s: FloatArray
    most_tokens: FloatArray
    least_tokens: FloatArray
    most_kv_tokens: FloatArray
    least_kv_tokens: FloatArray
    request_seconds: FloatArray
    present: tuple[Present, ...]

    @property
    def most_requests(self) -> int:
        """Most requests that can be in batches at once."""
        return max(present.most for present in self.present)


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
    return DecodeDemand(
        edges_s=edges_s,
        most_tokens=could,
        least_tokens=_due(tokens, due_s, ends_s, may_miss),
        most_kv_tokens=could_read,
        least_kv_tokens=_due(reads, due_s, ends_s, may_miss),
        request_seconds=_open_windows(ready_s, due_s, edges_s, may_miss),
        present=present(
            ready_s,
            due_s,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            edges_s=edges_s,
            may_miss=may_miss,
        ),
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
) -> FloatArray:
    """Integral over each bin of open windows and missed requests."""
    times = np.unique(np.concatenate((open_s, close_s, edges_s)))
    times = times[times <= edges_s[-1]]
    number = number_open(open_s, close_s, times, may_miss)
    areas = np.concatenate(([0.0], np.cumsum(number[:-1] * np.diff(times))))
    return np.diff(np.interp(edges_s, times, areas))
