"""Publishes the state of an instance to routers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from voltana.ports import PredictorSnapshot, TimeSource
    from voltana.serving.agent.group import Group
    from voltana.serving.feed import FeedPublisher

SNAPSHOT_S = 0.5
"""Between two snapshots of the predictor: taking one costs more than publishing a state."""


class Publishing:
    """Publishes what a group knows.

    Args:
        feed: Where to.
        group: The loops.
        time: Source of time.
    """

    def __init__(self, feed: FeedPublisher, group: Group, time: TimeSource) -> None:
        self._feed = feed
        self._group = group
        self._time = time
        self._snapshot: PredictorSnapshot | None = None
        self._renew_at_s = -math.inf
        self._error = ""
        self._log = structlog.get_logger("voltana_sglang.publishing")

    def publish(self, *, heartbeat: bool) -> None:
        """Publish the state; nothing while there is no engine.

        Args:
            heartbeat: Whether no record caused it. What an idle instance does is known: nothing.
        """
        group = self._group
        if not group.attached:
            return
        now_s = self._time.now_s()
        if now_s >= self._renew_at_s:
            self._renew_at_s = now_s + SNAPSHOT_S
            self._snapshot = self._taken()
        resting = heartbeat and group.idle()
        self._feed.publish(
            group.state(),
            age_s=0.0 if resting else max(0.0, now_s - group.sampled_s()),
            levels_mhz=group.levels_mhz(),
            budget_s=group.budget_s(),
            snapshot=self._snapshot,
            rooms=group.take_rooms(),
        )

    def _taken(self) -> PredictorSnapshot | None:
        """A snapshot of the latency model; None where there is none, or a user's own fails."""
        try:
            return self._group.snapshot()
        except Exception as error:  # noqa: BLE001  (a user's predictor must not end the agent)
            if repr(error) != self._error:
                self._error = repr(error)
                self._log.warning(
                    "the predictor gives no snapshot: routers do without it", error=self._error
                )
            return None
