"""What instances last reported of themselves, on the router's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.cluster.candidates import NOTHING_KNOWN

if TYPE_CHECKING:
    from voltana.cluster.candidates import InstanceFacts
    from voltana.values import InstanceState

FEED = "feed"
LOADS = "loads"
NOTHING = "in-flight"


LONGEST_ITERATION_S = 5.0
"""An iteration that runs for longer is a sign of a hung engine: what it began with says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report.

    Attributes:
        state: What the instance said.
        sampled_s: When it looked, on the router's monotonic clock.
        source: `FEED` or `LOADS`.
        facts: What of it changes seldom, as far as it was told.
        heard_s: When it came; None for when it was sampled. An agent looks at its engine when an
            iteration begins, and tells what it saw 25 times a second until the next one.
    """

    state: InstanceState
    sampled_s: float
    source: str
    facts: InstanceFacts = NOTHING_KNOWN
    heard_s: float | None = None

    def told_s(self) -> float:
        """When the instance stood by it last."""
        return self.sampled_s if self.heard_s is None else self.heard_s

    def age_s(self, now_s: float) -> float:
        """How long nobody has stood by it; of an iteration that does not end, since it began."""
        if now_s - self.sampled_s > LONGEST_ITERATION_S:
            return now_s - self.sampled_s
        return max(0.0, now_s - self.told_s())


class Reports:
    """The latest report of each instance from each source.

    Args:
        stale_after_s: Age from which a report is not used.
    """

    def __init__(self, stale_after_s: float) -> None:
        self.stale_after_s = stale_after_s
        self._latest: dict[tuple[str, str], Report] = {}

    def put(self, instance: str, report: Report) -> None:
        """Keep a report, unless a younger one came first."""
        key = instance, report.source
        known = self._latest.get(key)
        if known is None or known.told_s() <= report.told_s():
            self._latest[key] = report

    def fresh(self, instance: str, now_s: float) -> Report | None:
        """The agent's report, else the server's own, unless both are stale."""
        for source in (FEED, LOADS):
            report = self._latest.get((instance, source))
            if report is not None and report.age_s(now_s) <= self.stale_after_s:
                return report
        return None

    def feed_is_fresh(self, instance: str, now_s: float) -> bool:
        """Whether its agent has reported in time."""
        report = self._latest.get((instance, FEED))
        return report is not None and report.age_s(now_s) <= self.stale_after_s
