"""The margins of all groups: a tracker for each, one pooled over them, and the cold start.

docs/guarantee.md states and proves what follows from it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from voltana.predictors.conformal.quantile_tracker import (
    Account,
    Counted,
    QuantileTracker,
    read_number,
)
from voltana.promise import MarginPart
from voltana_actuatord.quick import maker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.promise import Statement

make_margin_part = maker(MarginPart)

MAX_GROUPS = 64
"""Beyond this many groups no bound is issued: memory stays bounded."""

MORE = "and more"
"""Takes the labels of further groups, for which bounds were issued while there was room for one."""

PATIENCE = 10
"""A cold start is given up after this many times the labels that it needs."""


class MarginBook:
    """Margins by group; a new group starts from the pooled one.

    Args:
        statement: The numbers of the guarantee, for every group.
        first: Margin to start from; None waits for the statement's `cold_labels`.

    Attributes:
        statement: As given.
        trackers: The tracker of each group; not to be changed.
    """

    def __init__(self, statement: Statement, first: float | None) -> None:
        self.statement = statement
        self.trackers: dict[str, QuantileTracker] = {}
        self._pooled = None if first is None else QuantileTracker(statement, first)
        self._cold: deque[float] = deque(maxlen=statement.cold_labels)
        self._cold_seen = 0

    @property
    def cold(self) -> bool:
        """Whether nothing is known yet, of any group."""
        return self._pooled is None

    def quantile(self, group: str) -> float:
        """The margin of a group, in scales; inf while nothing is known."""
        tracker = self.trackers.get(group)
        if tracker is not None:
            return tracker.quantile
        if self._pooled is None:
            return math.inf
        # Not above q_cert: a bound issued before the group's first label has its head-room too.
        return min(self._pooled.quantile, self.statement.q_cert)

    def quantiles(self) -> dict[str, float]:
        """The margins of all groups, and of new ones under an empty name; empty while cold."""
        names = () if self.cold else (*self.trackers, "")
        return {name: self.quantile(name) for name in names}

    def part(self, group: str, from_mhz: float, *, known: bool) -> MarginPart:
        """What is issued for a group from a clock on; no margin if the load is not `known`."""
        tracker = self.trackers.get(group)
        if tracker is not None:
            quantile, updates = tracker.quantile, tracker.updates
        else:
            full = len(self.trackers) >= MAX_GROUPS
            quantile, updates = math.inf if full else self.quantile(group), 0
        if not known:
            quantile = math.inf
        return make_margin_part(
            from_mhz=from_mhz,
            group=group,
            quantile=quantile,
            certifiable=quantile <= self.statement.q_cert,
            updates=updates,
        )

    def tracker(self, group: str) -> QuantileTracker:
        """The group's tracker; a new group starts from the pooled margin."""
        tracker = self.trackers.get(group)
        if tracker is None:
            tracker = QuantileTracker(self.statement, self.quantile(group))
            self.trackers[group] = tracker
        return tracker

    def scored(self, part: MarginPart) -> QuantileTracker:
        """The tracker that takes the label of what was issued."""
        full = part.group not in self.trackers and len(self.trackers) >= MAX_GROUPS
        return self.tracker(MORE if full else part.group)

    def score(self, part: MarginPart, *, missed: bool, weight: float, counts_as: Counted) -> None:
        """Apply one scored label to its group, and to the pooled margin.

        Args:
            part: As issued.
            missed: Whether the label was above its bound, as issued.
            weight: From 0 to the statement's `max_weight`.
            counts_as: What its decision was.
        """
        self.scored(part).update(
            missed=missed, weight=weight, counts_as=counts_as, issued_at=part.updates
        )
        if self._pooled is not None:
            self._pooled.move(missed=missed, weight=weight)

    def warm_up(self, score: float) -> None:
        """Start from the largest of the last `cold_labels` scores, once the model fits them."""
        self._cold.append(score)
        self._cold_seen += 1
        needed = self.statement.cold_labels
        if len(self._cold) < needed:
            return
        largest = max(self._cold)
        # A model that is still being learned leaves its first errors behind; one that never fits
        # has to start too, at the widest margin that certifies, or it would never be scored.
        if largest <= self.statement.q_cert or self._cold_seen >= PATIENCE * needed:
            self._pooled = QuantileTracker(self.statement, largest)

    def account(self) -> dict[str, float]:
        """The account over all groups, with its bound and the labels that came overdue."""
        total = dict.fromkeys(Account().to_dict(), 0.0)
        for tracker in self.trackers.values():
            for name, weight in tracker.account.to_dict().items():
                total[name] += weight
        bound = sum(tracker.bound() for tracker in self.trackers.values())
        overdue = sum(tracker.overdue for tracker in self.trackers.values())
        return total | {"bound": bound, "overdue": overdue}

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values; `restore` reads them."""
        return {
            "pooled": None if self._pooled is None else self._pooled.to_dict(),
            "groups": {name: tracker.to_dict() for name, tracker in self.trackers.items()},
            "cold": list(self._cold),
        }

    def restore(self, values: Mapping[str, object]) -> None:
        """Go on from what `to_dict` wrote under the same statement.

        Raises:
            KeyError: If a key is missing.
            TypeError: If a value is of another kind.
            ValueError: If a number is none that `to_dict` can have written.
        """
        pooled, groups, cold = values["pooled"], values["groups"], values["cold"]
        if not (isinstance(groups, dict) and isinstance(cold, list)):
            raise TypeError("groups must be a table and cold a list")
        if not (pooled is None or isinstance(pooled, dict)) or (groups and pooled is None):
            raise TypeError("pooled must be a table where there are groups")
        if len(groups) > MAX_GROUPS + (MORE in groups):
            raise ValueError(f"{len(groups)} groups: at most {MAX_GROUPS} are kept")
        # All of it is read before any of it is taken: a damaged state leaves this one as it was.
        read = {
            name: QuantileTracker.restore(self.statement, state) for name, state in groups.items()
        }
        scores = [read_number(score, -math.inf) for score in cold]
        if pooled is not None:
            self._pooled = QuantileTracker.restore(self.statement, pooled)
        self.trackers = read
        self._cold = deque(scores, maxlen=self.statement.cold_labels)
        self._cold_seen = len(self._cold)
