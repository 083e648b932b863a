"""Guarantees that are broken in one place each; the recipe has to catch every one."""

from __future__ import annotations

import dataclasses
import math

from voltana.predictors.conformal import ByTokens, Conformal, by_phase, one_group
from voltana.predictors.conformal.label_ledger import LabelLedger
from voltana.predictors.conformal.margin_book import MarginBook
from voltana.predictors.conformal.quantile_tracker import Counted, QuantileTracker
from voltana.promise import Statement
from voltana.testing import samples
from voltana.values import Forecast

QUICK = Statement(alpha=0.1, gamma=0.1, max_weight=4.0)
"""Attains its bound within few labels."""


class Frozen:
    """The linear plant's own latency as a mean, without a bound."""

    def forecast(self, load, clocks_mhz):
        mean_s = samples.LinearSnapshot(margin=0.0).forecast(load, clocks_mhz).mean_s
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)

    def learn(self, outcome):
        pass

    def snapshot(self):
        return samples.LinearSnapshot(margin=0.0)


def bound(kind=Conformal, statement=QUICK, **options):
    """A conformal bound around the frozen mean, weighted by tokens, started warm."""
    options = {"first": 0.15, "weight": ByTokens(64.0), "group": by_phase} | options
    return kind(Frozen(), statement, **options)


def _kept_in(book):
    class Mutant(Conformal):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self._book = book(self.statement, options.get("first"))

    return Mutant


class _SignFlip(MarginBook):
    def score(self, part, *, missed, **label):
        super().score(part, missed=not missed, **label)


class _LostUpdate(MarginBook):
    """The second of two labels without a forecast between them is lost, as in a race."""

    raced = False

    def part(self, *args, **options):
        self.raced = False
        return super().part(*args, **options)

    def score(self, part, **label):
        if not self.raced:
            super().score(part, **label)
        self.raced = True


class PredictedAgain(Conformal):
    """Scores against the margin of now, not of issue."""

    def _take(self, outcome, decision, promise):
        fresh = self.margin(outcome.load)
        forecast = dataclasses.replace(decision.forecast, margin=fresh)
        super()._take(outcome, dataclasses.replace(decision, forecast=forecast), promise)


class RequestedClock(Conformal):
    """Takes a label for settled if it ran at the clock that was asked for."""

    def _take(self, outcome, decision, promise):
        if abs(outcome.clock_mhz - decision.clock_mhz) <= 0.02 * decision.clock_mhz:
            outcome = dataclasses.replace(outcome, clock_mhz=promise.in_force_mhz)
        super()._take(outcome, decision, promise)


class _WrongGroup(MarginBook):
    """Scores a label in the group that came first."""

    def tracker(self, group):
        super().tracker(group)
        return next(iter(self.trackers.values()))


class _TwiceCounted(MarginBook):
    def score(self, part, **label):
        super().score(part, **label)
        super().score(part, **label)


class Forgetful(LabelLedger):
    def admit(self, issuer, sequence):
        return True


class TakenTwice(Conformal):
    """Takes a duplicate for a label."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._ledger = Forgetful()


class _SaturatedOnly(MarginBook):
    """Learns its margin from uncertified labels alone."""

    def score(self, part, *, counts_as, **label):
        if counts_as is not Counted.CERTIFIED:
            super().score(part, counts_as=counts_as, **label)


class DroppedMisses(Conformal):
    """Drops every label of an unsettled clock, certified misses included."""

    def _account_for(self, found, outcome, decision, weight):
        if found.counts_as is Counted.CERTIFIED and not found.settled:
            found = found._replace(counts_as=None)
        super()._account_for(found, outcome, decision, weight)


class _Clipped(QuantileTracker):
    def update(self, **label):
        super().update(**label)
        self.quantile = min(self.quantile, self.statement.q_cert)


class _Capped(QuantileTracker):
    def update(self, *, missed, weight, **label):
        super().update(missed=missed, weight=min(weight, 1.0) if missed else weight, **label)


class _FullStep(QuantileTracker):
    def update(self, *, missed, weight, **label):
        full = weight / (1.0 - self.statement.alpha) if missed else weight
        super().update(missed=missed, weight=full, **label)


def _tracked_by(tracker):
    class Mutant(MarginBook):
        def tracker(self, group):
            if group not in self.trackers:
                self.trackers[group] = tracker(self.statement, self.quantile(group))
            return self.trackers[group]

    return _kept_in(Mutant)


class _GateOpen(MarginBook):
    """Certifies whatever the margin."""

    def part(self, group, from_mhz, *, known):
        part = super().part(group, from_mhz, known=known)
        return dataclasses.replace(part, certifiable=part.quantile < math.inf)


MUTANTS = {
    "sign flip": _kept_in(_SignFlip),
    "lost update": _kept_in(_LostUpdate),
    "re-predicted score": PredictedAgain,
    "requested clock": RequestedClock,
    "wrong group": _kept_in(_WrongGroup),
    "double scoring": _kept_in(_TwiceCounted),
    "duplicates taken": TakenTwice,
    "saturated only": _kept_in(_SaturatedOnly),
    "unsettled misses dropped": DroppedMisses,
    "clip at q_cert": _tracked_by(_Clipped),
    "capped weight": _tracked_by(_Capped),
    "wrong step": _tracked_by(_FullStep),
    "open gate": _kept_in(_GateOpen),
}

BOUND_BREAKERS = {
    "sign flip", "wrong group", "saturated only", "clip at q_cert", "capped weight",
    "unsettled misses dropped", "open gate",
}  # fmt: skip
"""Mutants that break the bound itself, not the replay alone."""

HONEST = {
    "by tokens": {},
    "one group": {"group": one_group},
    "level groups": {"level_edges_mhz": (900.0, 1300.0)},
    "cold": {"first": None},
    "decaying": {"statement": dataclasses.replace(QUICK, decay=0.6, floor=0.02)},
    "defaults": {"statement": Statement(max_weight=4.0)},
    "tight head-room": {"statement": dataclasses.replace(QUICK, gamma=0.02, alpha=0.3)},
}
"""Sound settings, which no program may fault."""
