"""Service-level objectives, the budgets that follow from them, and attainment.

TTFT runs from arrival to the first token delivered. ITL is the gap between two tokens of one
request. Attainment is reported per request (TTFT; mean ITL of the request) and per token (each
gap). A request that never finished counts as missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid

if TYPE_CHECKING:
    from voltana.values import FloatArray, Queue

MOST_SPENDING = 1.5
"""Of the ITL threshold, so that no token waits much longer than was asked for."""

IntArray = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Latency thresholds, and the share of requests that must keep them.

    Attributes:
        ttft_s: Time to first token.
        itl_s: Inter-token latency.
        ttft_target: Share of requests that must keep the TTFT threshold.
        itl_target: Share of requests whose mean ITL must keep the ITL threshold.
        spending: What a decode iteration may take at most where all its requests have the slack, in
            ITL thresholds; 1 spends none.

    Raises:
        ConfigError: If a threshold is not above 0 s, a target is not in (0, 1), or `spending` is
            not from 1 to 1.5.
    """

    ttft_s: float
    itl_s: float
    ttft_target: float = 0.95
    itl_target: float = 0.99
    spending: float = 1.0

    def __post_init__(self) -> None:
        for field, seconds in (("ttft_s", self.ttft_s), ("itl_s", self.itl_s)):
            if not (seconds > 0 and math.isfinite(seconds)):
                raise invalid(
                    field, seconds, "above 0 s and finite", "Give a threshold in seconds."
                )
        for field, share in (("ttft_target", self.ttft_target), ("itl_target", self.itl_target)):
            if not 0 < share < 1:
                raise invalid(field, share, "between 0 and 1, ends excluded", "0.99 means 99 %.")

        if not 1.0 <= self.spending <= MOST_SPENDING:
            raise invalid(
                "spending", self.spending, f"from 1 to {MOST_SPENDING}", "1 spends no slack."
            )

    def prefill_budget_s(self, queue: Queue) -> float:
        """What is left of the TTFT threshold for the request that has waited longest."""
        return self.ttft_s - queue.oldest_wait_s

    def decode_budget_s(self, slack_s: float = math.nan) -> float:
        """What one decode iteration may take.

        Args:
            slack_s: The least slack of its requests; nan where it is not known.
        """
        if self.spending == 1.0 or math.isnan(slack_s):
            return self.itl_s
        return min(max(slack_s, self.itl_s), self.spending * self.itl_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attainment:
    """Shares of requests and tokens that kept the thresholds; nan where there were none."""

    ttft: float
    itl: float
    itl_tokens: float


def attainment(
    slo: Slo,
    *,
    ttft_s: FloatArray,
    mean_itl_s: FloatArray,
    itl_s: FloatArray,
    itl_tokens: IntArray | None = None,
) -> Attainment:
    """Shares that kept the thresholds.

    Args:
        slo: The thresholds.
        ttft_s: One value per offered request; inf where no first token came.
        mean_itl_s: One value per offered request with two or more output tokens; inf where it was
            not finished.
        itl_s: One value per gap between two tokens.
        itl_tokens: How many tokens had each of those gaps; None means one each.
    """
    return Attainment(
        ttft=_share(ttft_s, slo.ttft_s),
        itl=_share(mean_itl_s, slo.itl_s),
        itl_tokens=_share(itl_s, slo.itl_s, itl_tokens),
    )


def _share(values_s: FloatArray, threshold_s: float, weights: IntArray | None = None) -> float:
    if len(values_s) == 0:
        return math.nan
    return float(np.average((values_s <= threshold_s).astype(float), weights=weights))
