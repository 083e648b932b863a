"""Caution: how many standard deviations of what may arrive prefill plans for, learned from slack.

The dual of "as little energy as possible, and at most a share alpha of the prompts late": a price
that rises while more are late and falls while fewer are (`MissedPrice`). Misses are rare, so that a
loop on them alone learns slowly and by harm. What is scored is how close each prompt came to its
deadline: with a slack of s thresholds, ``exp(-s / NEAR)``, and 1 from the deadline on. That is
nowhere less than the miss itself, so a loop that holds its mean to alpha holds the misses to alpha
as well (H. Chernoff, Annals of Mathematical Statistics 23, 1952), and it moves long before the
first of them. A controller sees the oldest prompt of a batch alone; the others are taken to have
come evenly since, up to the start of the batch.
"""

from __future__ import annotations

import math

from voltana.controllers.missed_price import MissedPrice

NEAR = 0.06
"""Slack, as a share of the threshold, at which a kept deadline counts as 1/e of a missed one."""

LEAST_WAITED = 1e-3
"""A wait so short that all of a batch have the same slack."""

FIRST_DEVIATIONS = 4.0
"""Where it starts: nothing is known of the model's errors yet."""

FALL_PER_S = 0.1
"""Deviations given back per second while no deadline is near: the first ones in 40 s."""

MOST_DEVIATIONS = 6.0
"""No more is asked for; with so many, batches that others may have to wait for run at the fastest
clock anyway."""


class Caution:
    """Scores prefill batches at their end, or at their deadline where that comes before.

    Args:
        alpha: Share of the prompts that may be late.
    """

    def __init__(self, alpha: float) -> None:
        self._price = MissedPrice(
            alpha, first=FIRST_DEVIATIONS, fall_per_s=FALL_PER_S, most=MOST_DEVIATIONS
        )

    @property
    def deviations(self) -> float:
        """Standard deviations to plan for, from 0 to `MOST_DEVIATIONS`."""
        return self._price.slack

    def note(self, tokens: int, slack: float, waited: float = 0.0) -> None:
        """Note a batch.

        Args:
            tokens: Its tokens.
            slack: What was left of its oldest prompt's threshold when it ended, as a share of the
                threshold; negative if late.
            waited: What of its threshold that prompt waited for the batch, likewise.
        """
        self._price.note(tokens, late=closeness(slack, waited))

    def step(self, now_s: float) -> None:
        """Move by what was noted since the last step."""
        self._price.step(now_s)


def closeness(slack: float, waited: float) -> float:
    """Mean of the score over the prompts of a batch, as many of which came at any time.

    Args:
        slack: What is left of the oldest one's threshold at the end, as a share of the threshold.
        waited: What of its threshold it waited for the batch, likewise; the slack of the others is
            greater by up to that.
    """
    waited = max(waited, LEAST_WAITED)
    late = min(max(-slack, 0.0), waited)
    near = math.exp(-max(slack, 0.0) / NEAR) - math.exp(-max(slack + waited, 0.0) / NEAR)
    return (late + NEAR * near) / waited
