"""Share of the requests that are late by their mean, from the gaps that one after the other saw.

Who gets n tokens gets n gaps in a row, from the one on that follows its prompt; so means of runs of
n of those that are remembered, and that begin behind a gap in which prompts were computed, say how
requests fare that get so many. (Runs that begin anywhere say how they look to who comes by: where
prompts come together, who joins by one of them waits for those behind it, and the next are far.)
Requests get 1, 2 to 3, 4 to 7 ... as often as lengths without memory do. Of answers so long that
only few runs of their length are remembered, none of these tells. Their means lie about that of all
gaps as those of the longest runs do, but nearer to it, by the root of how many times as long they
are, and wherever they begin (the method of batch means: R. W. Conway, "Some tactical problems in
digital simulation", Management Science 10, 1963).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voltana.values import FloatArray, Table

LONGEST_SHARE = 16
"""Of what is remembered, the longest runs whose means are counted are this part."""


def requests_late(
    gaps_s: Table,
    fastest_s: Table,
    prompts_s: FloatArray,
    rest_s: Table,
    singles: FloatArray,
    *,
    threshold_s: float,
    owed: float,
) -> FloatArray:
    """Share of the requests whose mean gap is late at each level and not at the fastest one.

    Args:
        gaps_s: Every gap at every level, in the order of time, shape (n, l).
        fastest_s: The same at the fastest level, as if it had always run, shape (n, 1).
        prompts_s: What prompts took in each, at one clock: as many requests are taken to join
            behind it, shape (n,).
        rest_s: What those still waited for in it, before their next token, at every level, (n, l).
        singles: What is late of single gaps so, shape (l,).
        threshold_s: What a mean may be.
        owed: Gaps that a request gets, on average.
    """
    sums_s, fastest_sums_s = _sums(gaps_s), _sums(fastest_s)
    joining = np.concatenate([[0.0], prompts_s[:-1]])
    first_s = np.concatenate([np.zeros((1, rest_s.shape[1])), rest_s[:-1]])
    late = np.zeros(gaps_s.shape[1])
    ours, longer, length = singles, 1.0, 1
    longest = len(gaps_s) // LONGEST_SHARE
    while 2 * length <= longest:
        part = longer - math.exp(-2 * length / owed)
        late += part * ours
        longer -= part
        length *= 2
        means_s, fastest_means_s = _of_runs(sums_s, length), _of_runs(fastest_sums_s, length)
        if 2 * length > longest:  # they stand for all that are longer: without memory, by `owed`
            nearer = math.sqrt(length / (length + owed))
            means_s, fastest_means_s = _nearer(means_s, nearer), _nearer(fastest_means_s, nearer)
            weights = np.ones(len(means_s))
        else:
            waited_s, weights = first_s[: len(means_s)] / length, joining[: len(means_s)]
            means_s, fastest_means_s = means_s + waited_s, fastest_means_s + waited_s[:, -1:]
        ours = _share((means_s > threshold_s) & ~(fastest_means_s > threshold_s), weights)
    late += longer * ours
    return late


def _share(late: NDArray[np.bool_], joining: FloatArray) -> FloatArray:
    """Share of the runs that are late at every level, by weights; alike where these are all 0."""
    joined = float(joining.sum())
    share: FloatArray = joining @ late / joined if joined > 0.0 else late.mean(axis=0)
    return share


def _nearer(means_s: Table, times: float) -> Table:
    """Means drawn towards the mean of all at every level, to so many times the distance."""
    middle_s = means_s.mean(axis=0)
    drawn_s: Table = middle_s + times * (means_s - middle_s)
    return drawn_s


def _of_runs(sums_s: Table, length: int) -> Table:
    """Means of all runs of a length."""
    means_s: Table = (sums_s[length:] - sums_s[:-length]) / length
    return means_s


def _sums(rows: Table) -> Table:
    """Sums of the first 0, 1, 2 ... rows."""
    return np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)])
