"""What instances last reported of themselves, on the router's clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.ports import PredictorSnapshot
    from voltana.values import InstanceState

FEED = "feed"
LOADS = "loads"
NOTHING = "in-flight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report.

    Attributes:
        state: What the instance said.
        sampled_s: When it looked, on the router's monotonic clock.
        source: `FEED` or `LOADS`.
        predictor: Its latency model; None where it sent none.
        levels_mhz: Clocks that its controller may choose.
        budget_s: Latency budget of one of its iterations.
    """

    state: InstanceState
    sampled_s: float
    source: str
    predictor: PredictorSnapshot | None = None
    levels_mhz: tuple[float, ...] = ()
    budget_s: float = math.inf


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
        if known is None or known.sampled_s <= report.sampled_s:
            self._latest[key] = report

    def fresh(self, instance: str, now_s: float) -> Report | None:
        """The agent's report, else the server's own, unless both are stale."""
        for source in (FEED, LOADS):
            report = self._latest.get((instance, source))
            if report is not None and now_s - report.sampled_s <= self.stale_after_s:
                return report
        return None

    def feed_is_fresh(self, instance: str, now_s: float) -> bool:
        """Whether its agent has reported in time."""
        report = self._latest.get((instance, FEED))
        return report is not None and now_s - report.sampled_s <= self.stale_after_s
