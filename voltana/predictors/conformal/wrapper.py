"""Conformal: puts a margin with a proven miss rate on any latency predictor.

The bound is ``u = m + q * (m + m0)``, with m from the wrapped predictor and q tracked online, one
for each group. docs/guarantee.md states and proves what follows from it.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.ports import Reopens, TellsExpected
from voltana.predictors.conformal.groups import (
    by_phase,
    decode_group,
    decode_groups,
    one_weight,
)
from voltana.predictors.conformal.label_ledger import LabelLedger
from voltana.predictors.conformal.margin_book import MarginBook
from voltana.predictors.conformal.quantile_tracker import COUNTED_ELSEWHERE, read_number
from voltana.predictors.conformal.scoring import verdict
from voltana.predictors.conformal.snapshot import (
    ConformalSnapshot,
    TellsBatchMeans,
    at_clocks,
    group_names,
    mean_of,
    teller,
    upper_bound,
    upper_bounds,
)
from voltana.promise import Margin, Statement
from voltana.values import Forecast, Status
from voltana.values.control import CERTIFIED
from voltana_actuatord.quick import maker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from voltana.ports import Predictor
    from voltana.predictors.conformal.quantile_tracker import QuantileTracker
    from voltana.predictors.conformal.scoring import Verdict
    from voltana.promise import MarginPart, Promise
    from voltana.values import Decision, FloatArray, Load, Outcome, Table

make_forecast = maker(Forecast)
make_margin = maker(Margin)

UNUSABLE = "unusable latency"
TOO_LATE = "too late"
UNJUDGED = "cannot be judged"
"""Causes for which a certified decision has no label; whoever delivers labels has more of them."""

PROFILED_MARGIN = 0.15
"""Margin to start from where the predictor starts from a profile of the same stack."""


class Conformal:
    """Satisfies `voltana.ports.Predictor`; scores what `voltana.loop` settled, as it was issued.

    Args:
        predictor: Its mean is the m of the bound; where its own bound is infinite, so is this.
        statement: The numbers of the guarantee.
        first: Margin to start from; None waits for the statement's `cold_labels`.
        offset_s: m0; absorbs jitter on short batches.
        group: Names the group of a load.
        weight: Weight of a load; no bound is issued above the statement's `max_weight`.
        level_edges_mhz: Ascending clocks that part each group further; none by default.

    Attributes:
        unlabelled: Certified decisions without a label, by cause.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        predictor: Predictor,
        statement: Statement | None = None,
        *,
        first: float | None = None,
        offset_s: float = 0.005,
        group: Callable[[Load], str] = by_phase,
        weight: Callable[[Load], float] = one_weight,
        level_edges_mhz: Sequence[float] = (),
    ) -> None:
        if first is not None and not -1 < first < math.inf:
            raise invalid("first", first, "above -1", "A share of the latency; 0.15 is usual.")
        if not 0 < offset_s < math.inf:
            raise invalid("offset_s", offset_s, "above 0", "0.005 is the default.")
        clocks = all(0 < mhz < math.inf for mhz in level_edges_mhz)
        if not clocks or list(level_edges_mhz) != sorted(set(level_edges_mhz)):
            raise invalid(
                "level_edges_mhz", level_edges_mhz, "ascending clocks above 0", "Sort them."
            )
        self.predictor = predictor
        self.statement = statement or Statement()
        self.unlabelled: dict[str, int] = {}
        self._offset_s = offset_s
        self._group = group
        self._weight = weight
        self._edges_mhz = tuple(map(float, level_edges_mhz))
        self._starts_mhz = (0.0, *self._edges_mhz)
        self._decode_group = decode_group(group)
        self._told = teller(predictor)
        self._batches = predictor if isinstance(predictor, TellsBatchMeans) else None
        self._reopens = predictor if isinstance(predictor, Reopens) else None
        self._expects = predictor if isinstance(predictor, TellsExpected) else None
        self._book = MarginBook(self.statement, first)
        self._ledger = LabelLedger()
        self._widened, self._widened_labels = 0.0, 0
        self._frozen: ConformalSnapshot | None = None  # what `snapshot` gave last

    @property
    def groups(self) -> Mapping[str, QuantileTracker]:
        """The tracker of every group, with its account and bound; not to be changed."""
        return self._book.trackers

    @property
    def lost(self) -> int:
        """Certified decisions without a label; `unlabelled` has them by cause."""
        return sum(self.unlabelled.values())

    @property
    def longest_delay(self) -> int:
        """Most other labels of its group that one came after: what K has to be at least."""
        return max((tracker.longest for tracker in self.groups.values()), default=0)

    @property
    def refused(self) -> int:
        """Labels that came twice, or too late to tell."""
        return self._ledger.refused

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`; the upper bound is the conformal one."""
        mean_s, known = mean_of(self.predictor, self._told, load, clocks_mhz)
        margin = self.margin(load)
        upper_s = upper_bound(mean_s, known, self._opened(margin, clocks_mhz), self._offset_s)
        return make_forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=upper_s, margin=margin)

    def forecast_batches(
        self, requests: FloatArray, kv_tokens: FloatArray, clocks_mhz: FloatArray
    ) -> tuple[Table, Table]:
        """See `voltana.ports.TellsBatches`: what a snapshot taken now would say, for less."""
        if self._batches is None:
            return self.snapshot().forecast_batches(requests, kv_tokens, clocks_mhz)
        mean_s, known = self._batches.batch_means(requests, kv_tokens, clocks_mhz)
        groups = decode_groups(self._group, self._decode_group, requests, kv_tokens)
        margins = [(self._margin_of(name, clocks_mhz), rows) for name, rows in groups]
        return mean_s, upper_bounds(mean_s, known, margins, self._offset_s)

    def _margin_of(self, group: str, clocks_mhz: FloatArray) -> float | FloatArray:
        """The margin of a group of known loads as it bounds, for all clocks or each."""
        most, widened = self.statement.q_cert, self._widened
        tracked = map(self._book.quantile, group_names(group, self._edges_mhz))
        opened = [max(q, widened) if q <= most else math.inf for q in tracked]
        return at_clocks(opened, self._edges_mhz, clocks_mhz)

    def _opened(self, margin: Margin, clocks_mhz: FloatArray) -> float | FloatArray:
        """The margin as it bounds, for all clocks or each; inf where it may not certify."""
        widened, parts = self._widened, margin.parts
        if not self._edges_mhz:
            part = parts[0]
            if not part.certifiable:
                return math.inf
            return widened if widened > part.quantile else part.quantile
        opened = [max(part.quantile, widened) if part.certifiable else math.inf for part in parts]
        return at_clocks(opened, self._edges_mhz, clocks_mhz)

    def margin(self, load: Load) -> Margin:
        """What would be issued for `load` now."""
        name, weight = self._group(load), self._weight(load)
        known = 0.0 <= weight <= self.statement.max_weight
        if not self._edges_mhz:
            parts: tuple[MarginPart, ...] = (self._book.part(name, 0.0, known=known),)
        else:
            names = group_names(name, self._edges_mhz)
            parts = tuple(
                [
                    self._book.part(part, start, known=known)
                    for part, start in zip(names, self._starts_mhz, strict=True)
                ]
            )
        return make_margin(parts=parts, offset_s=self._offset_s, weight=weight)

    def learn(self, outcome: Outcome) -> None:
        """Score the label as it was issued, then teach the predictor; a duplicate is refused."""
        decision = outcome.decision
        if decision is not None and decision.promise is not None:
            if not self._admit(decision, decision.promise):
                return
            try:
                self._take(outcome, decision, decision.promise)
            except Exception:  # what was issued fits nothing; the label must not vanish
                self._lose(decision, UNJUDGED)
                raise
        self.predictor.learn(outcome)

    def lose(self, decision: Decision, cause: str) -> None:
        """Note that the label of a decision will not come, and why; it is refused if it does.

        Of one whose label has come nothing is noted.

        Args:
            decision: As the loop settled it.
            cause: A few words, such as ``record lost``; certified ones are counted by it.
        """
        promise = decision.promise
        if promise is None or self._ledger.has(promise.issuer, promise.sequence):
            return
        if self._admit(decision, promise):
            self._lose(decision, cause)

    def widen(self, quantile: float, labels: int = 200) -> None:
        """Issue bounds with at least this margin for a while, as on an alarm of drift.

        Labels are scored against the tracked margin even so, which the guarantee allows.

        Args:
            quantile: The least margin, in scales.
            labels: For how many labels.

        Raises:
            ConfigError: If an argument is outside its range.
        """
        if not 0 <= quantile < math.inf:
            raise invalid("quantile", quantile, "0 or more, finite", "0.3 adds at least 30 %.")
        if not labels >= 0:
            raise invalid("labels", labels, "0 or more", "200 is the default.")
        self._widened, self._widened_labels = quantile if labels else 0.0, labels

    def reopen(self, factor: float = 100.0, relative_error: float = 0.3) -> None:
        """What `voltana.predictors.drift.DriftAware` calls: widen, and let the predictor move."""
        self.widen(relative_error)
        if self._reopens is not None:
            self._reopens.reopen(factor, relative_error)

    def expected_s(self, load: Load, clock_mhz: float) -> float:
        """The predictor's mean at one clock."""
        if self._expects is not None:
            return self._expects.expected_s(load, clock_mhz)
        return float(self.predictor.forecast(load, np.array([clock_mhz])).mean_s[0])

    def snapshot(self) -> ConformalSnapshot:
        """A frozen copy, which later learning does not change; the same one until there is some.

        What moves is the predictor's own snapshot, the margins, and the least margin.
        """
        predictor, quantiles = self.predictor.snapshot(), self._book.quantiles()
        last = self._frozen
        if (
            last is None
            or last.predictor is not predictor
            or last.quantiles != quantiles
            or last.widened != self._widened
        ):
            last = self._frozen = ConformalSnapshot(
                predictor=predictor,
                quantiles=quantiles,
                q_cert=self.statement.q_cert,
                widened=self._widened,
                offset_s=self._offset_s,
                group=self._group,
                edges_mhz=self._edges_mhz,
            )
        return last

    def account(self) -> dict[str, float]:
        """The account over all groups, its bound, and what never counted; for reports."""
        return self._book.account() | {"lost": self.lost, "refused": self.refused}

    def to_dict(self) -> dict[str, object]:
        """The state of the guarantee as plain JSON values; the predictor's is its own matter."""
        return {
            "statement": asdict(self.statement),
            **self._book.to_dict(),
            "unlabelled": dict(self.unlabelled),
        }

    def restore(self, values: Mapping[str, object]) -> None:
        """Go on from what `to_dict` wrote; labels still in flight then are not waited for.

        Raises:
            ConfigError: If it was written under another statement.
            KeyError: If a key is missing.
            TypeError: If `values` is not what `to_dict` writes.
            ValueError: If a number is none that it can have written.
        """
        if values["statement"] != asdict(self.statement):
            raise invalid(
                "statement", values["statement"], f"{asdict(self.statement)}", "Start afresh."
            )
        unlabelled = values["unlabelled"]
        if not isinstance(unlabelled, dict):
            raise TypeError("unlabelled must be a table")
        read = {str(cause): int(read_number(count, 0.0)) for cause, count in unlabelled.items()}
        self._book.restore(values)
        self.unlabelled = read

    def _admit(self, decision: Decision, promise: Promise) -> bool:
        """Whether a label is new; one that comes too late to tell is counted as lost."""
        if self._ledger.admit(promise.issuer, promise.sequence):
            return True
        if self._ledger.is_forgotten(promise.issuer, promise.sequence):
            self._lose(decision, TOO_LATE)
        return False

    def _take(self, outcome: Outcome, decision: Decision, promise: Promise) -> None:
        if self._widened_labels:
            self._widened_labels -= 1
            if not self._widened_labels:
                self._widened = 0.0
        forecast = decision.forecast
        if forecast is None or forecast.margin is None:
            return
        if not 0.0 < outcome.latency_s < math.inf:
            self._lose(decision, UNUSABLE)
            return
        found = verdict(outcome, decision, promise, forecast, forecast.margin)
        if found.mean_s == math.inf:
            self._lose(decision, UNUSABLE)
        elif found.part.quantile < math.inf:
            self._account_for(found, outcome, decision, forecast.margin.weight)
        elif found.settled and self._book.cold:
            scale_s = found.mean_s + forecast.margin.offset_s
            self._book.warm_up((outcome.latency_s - found.mean_s) / scale_s)

    def _account_for(
        self, found: Verdict, outcome: Outcome, decision: Decision, weight: float
    ) -> None:
        """Score a label, and note the ones that are not."""
        part, counts_as = found.part, found.counts_as
        account, elsewhere = self._book.scored(part).account, counts_as is COUNTED_ELSEWHERE
        if decision.status is CERTIFIED:
            account.violated += weight * (outcome.latency_s > decision.budget_s)
            account.unsettled += weight * (counts_as is None)
        else:
            account.unscored += weight * (counts_as is None)
            account.elsewhere_blocked += weight * elsewhere
        if counts_as is not None:
            # A label that is scored elsewhere was a hit there, whatever it was held against here.
            missed = found.missed and not elsewhere
            self._book.score(part, missed=missed, weight=weight, counts_as=counts_as)

    def _lose(self, decision: Decision, cause: str) -> None:
        if decision.status is Status.CERTIFIED:
            self.unlabelled[cause] = self.unlabelled.get(cause, 0) + 1

    def __repr__(self) -> str:
        return f"Conformal({self.predictor!r}, alpha={self.statement.alpha:g})"
