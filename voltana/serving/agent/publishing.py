"""Publishes the state of an instance to routers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.cluster.renewed import SNAPSHOT_S, Renewed

if TYPE_CHECKING:
    from voltana.cluster.candidates import InstanceFacts
    from voltana.ports import TimeSource
    from voltana.serving.agent.energy import EnergyAccount
    from voltana.serving.agent.group import Group
    from voltana.serving.feed import FeedPublisher


class Publishing:
    """Publishes what a group knows.

    Args:
        feed: Where to.
        group: The loops.
        energy: Their energy.
        time: Source of time.
    """

    def __init__(
        self, feed: FeedPublisher, group: Group, energy: EnergyAccount, time: TimeSource
    ) -> None:
        self._feed = feed
        self._energy = energy
        self._group = group
        self._time = time
        self._facts = Renewed(group.facts, time, SNAPSHOT_S)

    def facts(self) -> InstanceFacts:
        """What routers are told beside the state, its models frozen not long ago."""
        return self._facts.current()

    def publish(self, *, heartbeat: bool) -> None:
        """Publish the state, and take what a router intends; nothing while there is no engine.

        Args:
            heartbeat: Whether no record caused it. What an idle instance does is known: nothing.
        """
        group = self._group
        if not group.attached:
            return
        now_s = self._time.now_s()
        resting = heartbeat and group.idle()
        self._feed.publish(
            group.state(),
            age_s=0.0 if resting else max(0.0, now_s - group.sampled_s()),
            facts=self._facts.current(),
            rooms=group.take_rooms(),
            names_waiting=group.names_waiting(),
            energy_j=self._energy.total_j,
        )
        intended = self._feed.take_intended()
        if intended is not None:
            group.intend(intended)
