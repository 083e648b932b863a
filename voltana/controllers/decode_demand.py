"""What a decode plan is made for: the demand, how well it is known, and who may wait for room."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana_actuatord.quick import quickly_made

if TYPE_CHECKING:
    from voltana.values import IntendedDemand

SURE = 2.0
"""Standard errors of the demand within which it has to be servable before tokens are put off."""

MOST_IN_MEMORY = 0.15
"""Most of that where memory ends the batches: what is put off there waits for room, while the
fastest level runs. Of a few requests two errors are half of the demand, for chance alone."""

COMMON = 0.5
"""Share of the variance of a burst that all instances of a pool get at once, as where its demand
rises; the rest is the chance of each."""

MOST_SHARING = 1024.0
"""Instances that are planned for as one queue: of more, what chance asks of each is hardly less."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeDemand:
    """What an instance is asked for.

    Attributes:
        now_per_s: rho of the envelope, in tokens/s.
        burst: sigma of the envelope, in requests.
        slack: Share by which more is planned for.
        intended: What the instance will be asked for, where its router says so: the batch settles
            by it, and the barrier keeps what may come meanwhile as well.
        error: Relative error of the demand; a level that serves it within that stays.
        error_by_now: Likewise, greater where the demand is no average over its time constant yet:
            a level is not raised for what is not known, and lowered as before.
        unseen: Share of what the average stands for that is from before the instance woke: batches
            coast the more carefully the less was seen.
    """

    now_per_s: float
    burst: float
    slack: float = 0.0
    intended: IntendedDemand | None = None
    error: float = 0.0
    error_by_now: float = 0.0
    unseen: float = 0.0

    @property
    def lasting_per_s(self) -> float:
        """Tokens/s of what lasts."""
        return self.now_per_s if self.intended is None else self.intended.tokens_per_s

    @property
    def coming_per_s(self) -> float:
        """Tokens/s of what lasts, and of what comes now."""
        return max(self.now_per_s, self.lasting_per_s)

    @property
    def wanted_per_s(self) -> float:
        """Tokens/s that a level has to serve to settle."""
        return (1.0 + self.slack) * self.lasting_per_s

    @property
    def at_most_per_s(self) -> float:
        """The same where it is as much more as may be by chance."""
        return (1.0 + SURE * self.error) * self.wanted_per_s

    @property
    def at_most_in_memory_per_s(self) -> float:
        """The same where nothing but memory ends the batches: so much more at most."""
        return (1.0 + min(SURE * self.error, MOST_IN_MEMORY)) * self.wanted_per_s

    @property
    def at_most_unseen_per_s(self) -> float:
        """The same, of a demand of which part has yet to be seen."""
        more = max(SURE * max(self.error, self.error_by_now), self.unseen)
        return (1.0 + more) * self.wanted_per_s


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class WaitsForRoom:
    """Who may wait for room, and for how long.

    Attributes:
        affordable: Requests that may wait for room for each token/s that the fastest level serves.
        held: Likewise, of those whom a router holds back while every instance is at its boundary:
            of a burst they need no room.
        late: Share of the requests that may find no room; 1 keeps a burst free alone.
    """

    affordable: float = math.inf
    held: float = 0.0
    late: float = 1.0

    def sharing(self, intended: IntendedDemand | None) -> float:
        """Instances that are one queue to those who wait: one where nobody is held back.

        Whom a router holds back goes to whichever has room first. Who may be held for a part of
        what one may wait counts as that part.

        Args:
            intended: What the instance will be asked for.
        """
        if intended is None or not self.held or not self.affordable or not 0 < intended.share < 1:
            return 1.0
        part = 1.0 if self.held >= self.affordable else self.held / self.affordable
        return 1.0 + (min(1.0 / intended.share, MOST_SHARING) - 1.0) * part

    def let_in(self, demand: DecodeDemand, most_per_s: float) -> float:
        """Requests of a burst that need room at once, at least one.

        Args:
            demand: What the instance is asked for.
            most_per_s: Tokens/s that the fastest level serves in the largest viable batch.
        """
        if not self.held:
            return demand.burst
        part = COMMON + (1.0 - COMMON) / self.sharing(demand.intended)
        return max(demand.burst * math.sqrt(part) - self.held * most_per_s, 1.0)


NOBODY_WAITS = WaitsForRoom()
"""Where nothing is known of deadlines: a burst is kept free, and no more."""
