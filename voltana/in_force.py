"""Which clocks may be in force: what was asked for takes time, and readings lag and are noisy.

docs/guarantee.md certifies at the slowest of them.
"""

from __future__ import annotations

from collections import deque

SETTLED = 0.02
"""A clock is the one that was asked for if it is this close, as a share of it."""

NEAR = 0.005
"""A reading this close to a clock that was asked for is that clock: levels lie further apart."""

LAG_S = 0.5
"""A command that was replaced this long ago is not in force any more: calls take 3 to 10 ms and
settling 20 to 35 ms, and a driver under load several times that."""

_MOST = 2048
"""Commands that are remembered: more than can be given within `LAG_S`, for one that is forgotten
may still come into force."""


def is_settled(clock_mhz: float, wanted_mhz: float) -> bool:
    """Whether a clock is the one that was asked for; an unknown one (nan) is not known to be."""
    return abs(clock_mhz - wanted_mhz) <= SETTLED * wanted_mhz


class ClocksInForce:
    """The commands that may still be in force, or come into force.

    Commands take effect in order, and later than they were given. A reading that is near to one of
    them alone shows that those before it are over. Where it is near to several, nothing is known:
    the clock may not have changed yet, or have changed back. Such commands are over `LAG_S` after
    they were replaced.
    """

    __slots__ = ("_given",)

    def __init__(self) -> None:
        self._given: deque[tuple[float, float]] = deque(maxlen=_MOST)

    def command(self, clock_mhz: float, now_s: float) -> None:
        """Note that a clock was asked for."""
        if not self._given or self._given[-1][0] != clock_mhz:
            self._given.append((clock_mhz, now_s))

    def slowest_mhz(self, reading_mhz: float, now_s: float) -> float:
        """The slowest clock that may be in force; nan where nothing is known.

        Args:
            reading_mhz: Clock that was measured last; nan where it is not known.
            now_s: The current time.
        """
        given = self._given
        if len(given) > 1:
            self._forget(reading_mhz, now_s)
        if not given:
            return reading_mhz
        if len(given) == 1:  # as most of the time
            slowest_mhz = given[0][0]
            near = _near(reading_mhz, slowest_mhz)
        else:
            slowest_mhz = min(mhz for mhz, _ in given)
            near = any(_near(reading_mhz, mhz) for mhz, _ in given)
        if near or not reading_mhz > 0:
            return slowest_mhz
        return min(slowest_mhz, reading_mhz)

    def _forget(self, reading_mhz: float, now_s: float) -> None:
        """Drop the commands that are over."""
        given = self._given
        near = [at for at, (mhz, _) in enumerate(given) if _near(reading_mhz, mhz)]
        for _ in range(near[0] if near else 0):  # the first that it may be
            given.popleft()
        while len(given) > 1 and now_s - given[1][1] > LAG_S:
            given.popleft()


def _near(reading_mhz: float, clock_mhz: float) -> bool:
    return abs(reading_mhz - clock_mhz) <= NEAR * clock_mhz
