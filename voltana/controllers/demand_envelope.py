"""DemandEnvelope: what arrives in any stretch of time, at most, as learned from the batch.

Arrivals within any window of t seconds ask for at most ``rho * t`` tokens and join with at most
``sigma`` requests beyond that (a leaky bucket: R. L. Cruz, "A calculus for network delay", IEEE
Transactions on Information Theory 37, 1991). A controller sees the batch alone, so what is
enveloped is its growth beyond what the demand explains, departures that fail to come included.
"""

from __future__ import annotations

import math

from voltana.controllers.answer_age import AnswerAge
from voltana.controllers.owed_tokens import OwedTokens
from voltana.controllers.token_demand import TokenDemand

DEMAND_S = 15.0
"""Time constant over which the demand is averaged: its noise falls with the square root of it, and
a rise is seen the later the longer it is. docs/viability.md has both measured."""

OWED_TOKENS = 200.0
"""What a request in the batch has still to produce, on average, where nobody says. It counts while
the batch grows or shrinks alone."""

WINDOW_S = 1.0
"""Length of the windows that the envelope is held against."""

LEARNED_S = DEMAND_S / 3
"""How long an instance has to have been awake until rho is more than its first arrivals. Windows
from before are counted apart: there is no envelope yet that they could break."""

BROKEN = 0.0025
"""Share of the windows that may break it; a tracked quantile, so it holds on any sequence. A
quarter of the hundredth that is promised, as a run of two minutes has but 280 windows."""

FIRST_DEVIATIONS = 3.3
"""Where tracking starts: batches grow with a longer tail than a normal distribution's, whose
quantile for `BROKEN` is 2.8."""

STEP = 0.5
"""What a broken window adds to the burst, in standard deviations of Poisson arrivals."""


class DemandEnvelope:
    """Tokens demanded per second, and requests that a burst brings on top.

    Args:
        owed_tokens: See `OWED_TOKENS`.

    Attributes:
        windows: Windows that were held against the envelope.
        broken: Those in which the batch grew further.
        learning: Windows from before the demand was learned, which are in neither.
    """

    def __init__(self, owed_tokens: float = OWED_TOKENS) -> None:
        self.windows = self.broken = self.learning = 0
        self._owed = OwedTokens(owed_tokens)
        self._age = AnswerAge()
        self._demand = TokenDemand(DEMAND_S)
        self._deviations = FIRST_DEVIATIONS
        self._batch, self._produced = 0, 0
        self._awake_since_s = math.inf
        self._begun_s, self._begun_batch, self._begun_rate = math.nan, 0, 0.0

    @property
    def owed_tokens(self) -> float:
        """What a request in the batch has still to produce, on average."""
        return self._owed.mean

    @property
    def to_grow_tokens(self) -> float:
        """Tokens by which the mean context grows until as many requests end as join."""
        return max(self._owed.mean - self._age.tokens, 0.0)

    @property
    def rate_per_s(self) -> float:
        """rho: tokens demanded per second."""
        return self._demand.tokens_per_s(self._owed.mean)

    @property
    def measured(self) -> bool:
        """Whether anything was averaged yet: a new one may find a batch that runs."""
        return self._demand.seconds > 0.0

    @property
    def burst_requests(self) -> float:
        """sigma: requests by which the batch may grow beyond what rho explains."""
        return self._deviations * self._spread(self.rate_per_s)

    def relative_error(self, demand_per_s: float) -> float:
        """Standard deviation of a demand over it: so many Poisson arrivals fall in its average.

        Args:
            demand_per_s: rho, or what several instances are asked for together.
        """
        return self._error(demand_per_s, DEMAND_S)

    def error_by_now(self, demand_per_s: float) -> float:
        """The same at rho's age: as long as it averages over less, fewer arrivals fall in it."""
        return self._error(demand_per_s, self._demand.seconds)

    def _error(self, demand_per_s: float, seconds: float) -> float:
        requests = demand_per_s * seconds / self.owed_tokens
        return min(math.sqrt(1.0 / requests), 1.0) if requests > 0.0 else 1.0

    def unseen(self, now_s: float) -> float:
        """Share of an average over its time constant that is from before it woke: 1 at first."""
        return math.exp(min(self._awake_since_s - now_s, 0.0) / DEMAND_S)

    def ended(self) -> None:
        """Note that a request has ended."""
        self._owed.ended()
        self._age.ended()

    def note(self, batch: int, now_s: float) -> None:
        """Note the batch of the iteration that begins now."""
        self._demand.note(batch, now_s)
        if batch and not self._batch:
            self._awake_since_s = now_s
        gap_s = now_s - self._begun_s
        if gap_s >= WINDOW_S:
            self._judge(batch, gap_s)
        if not gap_s < WINDOW_S:
            self._begun_s, self._begun_batch, self._begun_rate = now_s, batch, self.rate_per_s
            self._produced = 0
        self._produced += batch
        self._owed.produced(batch)
        self._age.produced(batch)
        self._batch = batch

    def _judge(self, batch: int, gap_s: float) -> None:
        """Hold a window against the envelope, and move the envelope."""
        spread = self._spread(self._begun_rate)
        if not spread or gap_s > 2 * WINDOW_S:  # it idled
            return
        explained = (self._begun_rate * gap_s - self._produced) / self.owed_tokens
        broken = batch - self._begun_batch - explained > self._deviations * spread
        if self._begun_s - self._awake_since_s < LEARNED_S:
            # What a router that fills it sends beyond that is no burst.
            self.learning += 1
            return
        self.windows += 1
        self.broken += broken
        self._deviations += STEP * ((1.0 if broken else 0.0) - BROKEN)
        self._deviations = max(self._deviations, 1.0)

    def _spread(self, rate_per_s: float) -> float:
        """Standard deviation of the batch's growth in a window: Poisson arrivals and departures."""
        return math.sqrt(2.0 * rate_per_s / self.owed_tokens * WINDOW_S)
