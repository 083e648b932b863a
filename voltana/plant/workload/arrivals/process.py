"""What every arrival process offers, and what the renewal processes among them share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from voltana.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.values import FloatArray

MAX_EXPECTED_REQUESTS = 5e7
"""A longer workload would not fit in memory; it is far more likely a slip of the keyboard."""


@runtime_checkable
class ArrivalProcess(Protocol):
    """Draws arrival times; a user's own process is any class with this method."""

    def sample(self, rate_rps: float, duration_s: float, rng: np.random.Generator) -> FloatArray:
        """Draw the arrivals of one run.

        Args:
            rate_rps: Mean rate in requests a second.
            duration_s: Length of the run.
            rng: Source of randomness; its state advances.

        Returns:
            Shape (n,), ascending, in [0, duration_s); n may be 0.
        """
        ...


def check_rate(rate_rps: float, duration_s: float) -> None:
    """Refuse a rate or a duration that no run can have.

    Raises:
        ConfigError: If either is not positive and finite, or if both make too many requests.
    """
    if not 0 < rate_rps < math.inf:
        raise invalid("rate_rps", rate_rps, "above 0 requests/s and finite", "Give a mean rate.")
    if not 0 < duration_s < math.inf:
        raise invalid("duration_s", duration_s, "above 0 s and finite", "Give the run's length.")
    if rate_rps * duration_s > MAX_EXPECTED_REQUESTS:
        raise invalid(
            "rate_rps * duration_s",
            rate_rps * duration_s,
            f"at most {MAX_EXPECTED_REQUESTS:.0f} requests",
            "Lower the rate or shorten the run.",
        )


def renewal_arrivals(
    first_s: float, draw_gaps: Callable[[int], FloatArray], gap_s: float, duration_s: float
) -> FloatArray:
    """Arrivals of a renewal process up to `duration_s`.

    Gaps are drawn one after the other from one stream, so that a longer run with the same seed
    begins with the arrivals of the shorter one.

    Args:
        first_s: Time of the first arrival.
        draw_gaps: Draws that many gaps between arrivals, in seconds.
        gap_s: Mean gap.
        duration_s: Length of the run.
    """
    parts = [np.array([first_s])]
    last_s = first_s
    while last_s < duration_s:
        missing = (duration_s - last_s) / gap_s
        gaps_s = draw_gaps(int(missing + 3 * math.sqrt(missing)) + 16)
        parts.append(last_s + np.cumsum(gaps_s))
        last_s = float(parts[-1][-1])
    arrival_s = np.concatenate(parts)
    return arrival_s[: np.searchsorted(arrival_s, duration_s)]
