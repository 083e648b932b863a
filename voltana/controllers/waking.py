"""Waking: how slowly prefill may wait for work without waking making first tokens late.

An idle device that waits at a low clock begins the next prompt at it, until the faster one is in
force: some of the device's time is lost. That is energy (`parked`), and where prompts take nearly
as long as their deadline leaves at the fastest clock, it is first tokens too. So each prompt that
wakes the device tells how much likelier it would have been late had the device waited at each
level, and the slowest is taken at which that is little enough on average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from voltana.values import FloatArray

SETTLED_S = 0.035
"""What a change of the clock takes until it is in force on A100 and Hopper, the call included."""

ERROR = 0.03
"""Mean error of when a prompt ends, as a share of its threshold."""

WAKING_SHARE = 0.25
"""Of the share of the prompts that the plan may make late, what waking may besides."""

REMEMBERED = 100
"""Times that a device was woken over which the share is averaged."""


class Waking:
    """Mutable.

    Args:
        levels_mhz: Clocks to wait at, ascending, shape (l,).
        ttft_s: What a first token may take.
        late_share: Share of the prompts that the plan may make late.
    """

    def __init__(self, levels_mhz: FloatArray, ttft_s: float, late_share: float) -> None:
        self._levels_mhz = levels_mhz
        self._ttft_s, self._most = ttft_s, WAKING_SHARE * late_share
        self._late = np.zeros(len(levels_mhz))
        self._woken = 0

    @property
    def slowest(self) -> int:
        """Index of the slowest level to wait at; the fastest permitted one loses nothing."""
        return int((self._late <= self._most).argmax())

    def note(self, left_s: float, fastest_s: float, fastest: int = -1) -> None:
        """Note a batch that woke the device.

        Args:
            left_s: What was left of its oldest prompt's threshold.
            fastest_s: Its time at the fastest permitted level; 0 from a model that knows nothing.
            fastest: Index of that level; faster ones lose nothing either.
        """
        if not fastest_s > 0.0:
            return
        levels_mhz = self._levels_mhz
        lost_s = SETTLED_S * np.maximum(1.0 - levels_mhz / levels_mhz[fastest], 0.0)
        slack = (left_s - fastest_s) / self._ttft_s
        late = _late_chance(slack - lost_s / self._ttft_s) - _late_chance(np.array(slack))
        self._woken = min(self._woken + 1, REMEMBERED)
        self._late += (late - self._late) / self._woken


def _late_chance(slack: FloatArray) -> FloatArray:
    """How likely a prompt is late that is expected to end with such a slack.

    Errors are Laplace distributed: a half at the deadline, and 1/e of it `ERROR` before.
    """
    tail: FloatArray = 0.5 * np.exp(-np.abs(slack) / ERROR)
    chance: FloatArray = np.where(slack < 0.0, 1.0 - tail, tail)
    return chance
