"""Rate and lengths of what arrives at a router, over a window that fades exponentially."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.routers.mdp.chain import Arrivals

if TYPE_CHECKING:
    from voltana.values import Request


class ArrivalMeter:
    """Rate and lengths of what arrives, averaged over the last half a minute.

    Args:
        output_tokens: Mean length of an answer to start from.
    """

    def __init__(self, output_tokens: float) -> None:
        self._window_s = 30.0
        self._weight = self._prompts = 0.0
        self._first_s = self._last_s = math.nan
        self._output_tokens = output_tokens

    def note(self, request: Request) -> None:
        """Count a request."""
        now_s = request.arrived_at_s
        gap_s = now_s - self._last_s
        decay = math.exp(-gap_s / self._window_s) if gap_s > 0 else 1.0
        self._weight = self._weight * decay + 1.0
        self._prompts = self._prompts * decay + request.prompt_tokens
        if not self._first_s <= now_s:
            self._first_s = now_s
        self._last_s = now_s
        if request.expected_output_tokens is not None and request.expected_output_tokens > 0:
            self._move(request.expected_output_tokens, 1.0 / min(self._weight, 200.0))

    def arrivals(self, tokens_per_s: float) -> Arrivals:
        """What arrives of late.

        Args:
            tokens_per_s: What the pool produces now: over the rate, the mean answer.
        """
        elapsed_s = self._last_s - self._first_s
        seen_s = self._window_s * -math.expm1(-elapsed_s / self._window_s)
        rate_rps = self._weight / max(seen_s, 0.25)
        if tokens_per_s > 0 and elapsed_s > self._window_s / 2:
            self._move(max(tokens_per_s / rate_rps, 1.0), 0.2)
        return Arrivals(
            rate_rps=rate_rps,
            prompt_tokens=max(self._prompts / self._weight, 1.0),
            output_tokens=self._output_tokens,
        )

    def _move(self, output_tokens: float, share: float) -> None:
        self._output_tokens += share * (output_tokens - self._output_tokens)
