"""LateGaps: how many of the gaps between tokens would be late at every clock, and how many may be.

The gaps that were really there (`TokenGaps`) are gone over again at each level: a counterfactual,
or what-if, estimate.

At another clock not the same work would have come between: a cycle, from token to token, that is
longer lets more prompts arrive and more requests run. In the mean that is known. With D the time of
decode in a cycle, rho the share of the time that prompts take, and b requests of which a cycle of C
has C / C' times as many (J. D. C. Little, Operations Research 9, 1961),

    C = D(b C / C') / (1 - rho),

which is a line in C, as an iteration is one in its batch. Prompts are as long as they are, and few
come between two tokens: in a longer cycle so many times as often, each of them taking what it does.
Over many gaps what comes between is so many times as much.

What is late at the fastest clock too is nobody's to keep. What is asked of a level is that of the
tokens no more than a share alpha is late there beyond those that are at the fastest one, and the
same of requests by the mean of their gaps: of runs of so many gaps as requests get. What was
seen is a sample, and the future another one: what is allowed follows from what then is late
(`LateAccount`). Where prompts have ceased, nothing that they did to gaps is to come.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.controllers.late_account import LateAccount
from voltana.controllers.runs_of_gaps import requests_late

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.controllers.token_gaps import TokenGaps
    from voltana.values import FloatArray, Table


class LateGaps:
    """Reckons how many are late.

    Args:
        gaps: Those that are remembered.
        threshold_s: What a gap may take.
        alpha: Share that may be late where it would not be at the fastest clock: of the tokens, and
            of the requests by their mean.
        owed_tokens: Tells what a request produces, on average, by now.

    Attributes:
        means_bind: Whether it is the means of requests, and not single tokens, that ask for more
            than the next slower level.
    """

    def __init__(
        self,
        gaps: TokenGaps,
        threshold_s: float,
        alpha: float,
        *,
        owed_tokens: Callable[[], float],
    ) -> None:
        self._gaps = gaps
        self._threshold_s = threshold_s
        self._alpha = alpha
        self._owed_tokens = owed_tokens
        self._account = LateAccount(alpha, gaps.most)
        self._accounted = 0  # gaps that it knows
        self.means_bind = False

    def last(self, fastest: tuple[float, float]) -> tuple[float, bool]:
        """The last gap in seconds, and whether no clock would have kept it.

        Args:
            fastest: Growth at the fastest level, and what the batch adds there; see `growth`.
        """
        at = self._gaps.last
        lost = bool(self._alone_at_fastest_s(*fastest)[at] > self._threshold_s)
        return float(self._gaps.seen.passed_s[at]), lost

    def _alone_at_fastest_s(self, growth: float, batch_s: float) -> FloatArray:
        """Every gap at the fastest level, with what came between as it was."""
        seen = self._gaps.seen
        gaps_s: FloatArray = seen.fastest_s + seen.decode_s[:, -1]
        return gaps_s + (growth - 1.0) * batch_s

    def _weights(self) -> FloatArray:
        """Share of the tokens that each gap had: late are tokens, and a batch grows."""
        requests = self._gaps.seen.requests
        weights: FloatArray = requests / requests.sum()
        return weights

    def late_at_fastest(self, growth: float, batch_s: float) -> float:
        """Share of the gaps that are late at the fastest level: nobody's to keep.

        Args:
            growth: At the fastest level; see `growth`.
            batch_s: Likewise.
        """
        late = self._alone_at_fastest_s(growth, batch_s) > self._threshold_s
        return min(growth * float(self._weights() @ late), 1.0)

    def growth(self, share: FloatArray, batch_s: FloatArray) -> FloatArray:
        """How many times as long as now a cycle is at every level; inf where it never settles.

        Args:
            share: See `prompts_share`.
            batch_s: What as many requests again as run would add to a decode iteration.
        """
        seen = self._gaps.seen
        decode_s = seen.decode_s.mean(axis=0)
        now_s = float(seen.passed_s.mean())
        if not now_s > 0.0:  # gaps without any length tell nothing of longer ones
            return np.ones(len(share))
        left = 1.0 - share - batch_s / now_s
        settles = left > 0.0
        cycle_s = np.full(len(share), math.inf)
        np.divide(np.maximum(decode_s - batch_s, 0.0), left, out=cycle_s, where=settles)
        growth: FloatArray = cycle_s / now_s
        return growth

    def allowed(self, growth: float, batch_s: float) -> float:
        """Share that may be late in as many gaps more as are remembered; see `LateAccount`.

        Args:
            growth: At the fastest level; see `growth`.
            batch_s: Likewise.
        """
        new, seen = self._gaps.since(self._accounted), self._gaps.seen
        if len(new):
            tokens = seen.requests[new]
            late = float(tokens @ (seen.passed_s[new] > self._threshold_s))
            at_fastest = self._alone_at_fastest_s(growth, batch_s)[new] > self._threshold_s
            self._account.note(tokens, late - min(growth, 1.0) * float(tokens @ at_fastest))
            self._accounted = self._gaps.total
        grows = self._gaps.gaps < self._gaps.most
        return self._account.allowed(float(seen.requests.sum()), grows=grows)

    def lowest(self, growth: FloatArray, batch_s: FloatArray, allowed: float, lost: float) -> int:
        """Index of the slowest level at which, and above which, few enough are late.

        Tells `means_bind` too.

        Args:
            growth: See `growth`.
            batch_s: See there.
            allowed: Share that may be late.
            lost: See `late_at_fastest`.
        """
        settles = np.isfinite(growth)
        if not settles[-1]:
            return len(growth) - 1
        first = 0 if settles.all() else len(growth) - int(settles[::-1].argmin())
        gaps_s = self._gaps_s(growth[first:], batch_s[first:], first)
        fastest_s = self._gaps.in_order(self._scaled_at_fastest_s(growth[-1], batch_s[-1])[:, None])
        late = self._late(growth[first:], batch_s[first:], first) - lost
        count = len(gaps_s)
        tokens = count * late / (count + self._not_seen()) + self._unseen(gaps_s, fastest_s)
        requests = requests_late(
            gaps_s,
            fastest_s,
            self._gaps.prompts_at_fastest_s,
            self._gaps.in_order(self._rest_s(growth[first:], first)),
            tokens,
            threshold_s=self._threshold_s,
            owed=self._owed_tokens(),
        )
        keeps = (tokens <= allowed) & (requests <= allowed)
        keeps[-1] = True
        slow = np.flatnonzero(~keeps)
        index = int(slow[-1]) + 1 if len(slow) else 0
        self.means_bind = bool(index and tokens[index - 1] <= allowed)
        return first + index

    def _not_rescued(self, growth: float, batch_s: float) -> float:
        """Of the gaps that their level alone would have made late, the share that were.

        For the others the clock was raised in time, which to go over gaps at one level does not
        tell. One of two of the first is taken to be (Laplace's rule of succession).
        """
        seen, weights = self._gaps.seen, self._weights()
        at = np.arange(self._gaps.gaps), seen.level
        alone_s = seen.between_s[at] + seen.slow_s + seen.decode_s[at]
        kept = self._alone_at_fastest_s(growth, batch_s) <= self._threshold_s
        expected = (alone_s > self._threshold_s) & kept
        were = expected & (seen.passed_s > self._threshold_s)
        one = float(weights @ weights)  # an event of the usual weight
        return float((one + weights @ were) / (2.0 * one + weights @ expected))

    def _not_seen(self) -> float:
        """Gaps in time that late ones are reckoned against beside those that were seen.

        As many as one late one is allowed for: else the first that was late would have a level
        refused until twice as many were seen. What was late is spent; so it costs what is allowed
        for at most, and once.
        """
        return (1.0 - self._gaps.gaps / self._gaps.most) / self._alpha

    def _unseen(self, gaps_s: Table, fastest_s: Table) -> FloatArray:
        """Probability that the next gap is late at each level, but not at the fastest, as none was.

        Of n + 1 gaps in any order the last is the longest with probability 1 / (n + 1), however
        they are distributed (N. Glick, "Breaking records and breaking boards", American
        Mathematical Monthly 85, 1978). At the fastest level that is as likely of any order of
        length between their mean and the threshold (log-uniform, as of a scale that nobody knows:
        E. T. Jaynes, IEEE Trans. Systems Science and Cybernetics 4, 1968). Late are those that are
        shorter than the threshold by no more than a level makes them longer.
        """
        levels, mean_s = gaps_s.shape[1], float(fastest_s.mean())
        if not mean_s > 0.0:
            return np.zeros(levels)
        longest = 1.0 / (len(gaps_s) + 1)
        orders = math.log(max(self._threshold_s / mean_s, 1.0))
        if not orders:
            return np.full(levels, longest)
        longer = np.log(np.maximum(gaps_s.mean(axis=0) / mean_s, 1.0))
        late: FloatArray = longest * np.minimum(longer / orders, 1.0)
        return late

    def _late(self, growth: FloatArray, batch_s: FloatArray, first: int) -> FloatArray:
        """Share of the gaps that are late at the levels from the first on.

        In a longer cycle those that are late at the fastest level come more often too, and no
        clock keeps them: of the others only a share is kept by a rise.
        """
        seen, weights = self._gaps.seen, self._weights()
        alone_s = seen.between_s[:, first:] + seen.slow_s[:, None]
        gaps_s = alone_s + seen.decode_s[:, first:] + (growth - 1.0) * batch_s
        at_fastest = self._alone_at_fastest_s(growth[-1], batch_s[-1]) > self._threshold_s
        lost = float(weights @ at_fastest)
        by_level = (weights * ~at_fastest) @ (gaps_s > self._threshold_s)
        late: FloatArray = lost + self._not_rescued(growth[-1], batch_s[-1]) * by_level
        return np.minimum(growth * late, 1.0)

    def _scaled_at_fastest_s(self, growth: float, batch_s: float) -> FloatArray:
        """Every gap at the fastest level, with the mean of what then comes between."""
        more: FloatArray = (growth - 1.0) * self._gaps.seen.fastest_s
        return self._alone_at_fastest_s(growth, batch_s) + more

    def _gaps_s(self, growth: FloatArray, batch_s: FloatArray, first: int) -> Table:
        """Every gap at the levels from the first on, in the order of time."""
        between_s = self._between_s(growth, first)
        gaps_s = between_s + self._gaps.seen.decode_s[:, first:] + (growth - 1.0) * batch_s
        return self._gaps.in_order(gaps_s)

    def _rest_s(self, growth: FloatArray, first: int) -> Table:
        """What of that those who had joined still waited for, likewise."""
        rest_s: Table = self._gaps.seen.rest[:, None] * self._between_s(growth, first)
        return rest_s

    def _between_s(self, growth: FloatArray, first: int) -> Table:
        """What came between, at the levels from the first on; in no order."""
        seen = self._gaps.seen
        between_s: Table = seen.between_s[:, first:] * growth + seen.slow_s[:, None]
        return between_s
