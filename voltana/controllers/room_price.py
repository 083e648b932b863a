"""RoomPrice: what a request costs that finds no room in time, until few enough do.

The dual of "as little energy as possible, and at most a share alpha of the requests without room"
(`missed_price`): the price rises while all places are taken for a larger share of the iterations,
and falls while they are for less. Requests come by chance, so they find what time finds (R. W.
Wolff, "Poisson arrivals see time averages", Operations Research 30, 1982).
"""

from __future__ import annotations

import math

from voltana.controllers.missed_price import MissedPrice

FIRST = 15.0
"""In the energy of a request: what the places are kept free for until something is known."""

LEAST = 8.0
"""Where none ever finds all places taken: a burst that comes after a while finds some free."""

MOST = 300.0
"""Beyond it the fuller half of the places means the fastest clock anyway."""

FALL_PER_S = 0.03
"""Share of the price given back per second while places are free."""


class RoomPrice:
    """What a late request costs, in the energy of one that is served.

    Args:
        alpha: Share of the requests that may find all places taken.
    """

    def __init__(self, alpha: float) -> None:
        self._over_least = MissedPrice(
            alpha,
            math.log(FIRST / LEAST),
            fall_per_s=FALL_PER_S,
            most=math.log(MOST / LEAST),
        )

    @property
    def price(self) -> float:
        """From `LEAST` to `MOST`."""
        return LEAST * math.exp(self._over_least.slack)

    def note(self, *, full: bool) -> None:
        """Note an iteration: whether all places were taken."""
        self._over_least.note(1, late=float(full))

    def step(self, now_s: float) -> None:
        """Move the price by what was noted since the last step."""
        self._over_least.step(now_s)
