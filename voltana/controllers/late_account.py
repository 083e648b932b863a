"""LateAccount: what share of the tokens may be late, from what share was.

What is planned for comes out a little wrong, and always to the same side where the load is of a
kind that the estimate does not know. So there is an account: what is planned for goes in with every
token, and what was late by the clock alone goes out. What is owed is given back by as many tokens
as are remembered, and what was saved may be spent on them. So in the long run about as much is late
as is planned for, whatever estimates are wrong by, and there is no gain to choose.

Within the standard error of a number of late tokens (Poisson's, of one event more than is planned
for) what is owed is chance, which the estimates have counted already: to answer it twice moves the
clock to and fro, which costs power, for that is convex in the clock. The longer the account, the
less of what is late is chance, so that it goes back much further than the gaps that estimates are
made of: `MEMORIES` times as far, the weight of what was long ago fading. So much less is planned
for than may be late that with what is left alone, and what fades, no more is late in the long run
where `WRONG` times as many are as was allowed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.values import FloatArray

MEMORIES = 10
"""The account goes back so many times as far as gaps are remembered: a standard error of a tenth
of what may be late, where these have ten late ones. That is minutes; a load of hours ago is another
one."""

WRONG = 2.0
"""So many times as many may be late as were allowed: more than was seen. Where it is worse still,
the long run has at most a twentieth more than may be."""


class LateAccount:
    """Keeps the account of one instance.

    Args:
        alpha: Share of the tokens that may be late.
        most: Gaps that are remembered.
    """

    def __init__(self, alpha: float, most: int) -> None:
        self._fades_in = float(MEMORIES * most)
        self.planned = alpha * _planned_part(alpha * self._fades_in)
        self._saved = 0.0  # tokens that might have been late and were not
        self._variance = 0.0  # of that
        self._gaps = 0.0  # that it tells of, those of long ago less

    def note(self, tokens: FloatArray, late: float) -> None:
        """Gaps have ended.

        Args:
            tokens: That came at the end of each, shape (n,).
            late: How many of them were late, and would not have been at the fastest clock.
        """
        kept = math.exp(-len(tokens) / self._fades_in)
        self._saved = kept * self._saved + self.planned * float(tokens.sum()) - late
        self._gaps = kept * self._gaps + len(tokens)
        self._variance = kept * kept * self._variance + self.planned * float(tokens @ tokens)

    def allowed(self, tokens: float, *, grows: bool) -> float:
        """Share that may be late of as many tokens to come as are remembered.

        Args:
            tokens: Those that are remembered. No more is saved than is planned for in them: who
                has had nothing to do for an hour may not be late for the next.
            grows: Whether the memory is not full yet: what a load that still grows has not missed
                says nothing of what follows.
        """
        self._saved = min(self._saved, self.planned * tokens)
        saved = math.copysign(max(abs(self._saved) - self._error(), 0.0), self._saved)
        if grows:
            saved = min(saved, 0.0)
        return max(self.planned + saved / tokens, 0.0)

    def _error(self) -> float:
        """Standard error of what was saved, in tokens: one event more than planned for is chance.

        Of the first gaps a hundredth is no whole one, so that the first that is late would be owed.
        """
        planned = self.planned * self._gaps
        return math.sqrt(self._variance * (1.0 + 1.0 / planned)) if planned else 0.0


def _planned_part(events: float) -> float:
    """Part of what may be late that is planned for, where the account is of so many late tokens.

    Where `WRONG` times as many are late as were allowed, what is owed grows until as many are as
    the account forgets beyond those planned for. With x planned for, what is late, M `MEMORIES` and
    e the standard error that is left alone (Poisson's, of `events` x, as a share), that is

        late = WRONG (x - M (late - x) + M e),

    and x is what makes it all that may be: (1 + M) x + M sqrt(x / events) = M + 1 / WRONG.
    """
    left_alone = MEMORIES / math.sqrt(events)
    both = 1.0 + MEMORIES
    root = math.sqrt(left_alone**2 + 4.0 * both * (MEMORIES + 1.0 / WRONG))
    return ((root - left_alone) / (2.0 * both)) ** 2
