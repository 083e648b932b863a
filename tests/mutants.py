"""Guarantees that are broken in one place each; the recipe has to catch every one."""

from __future__ import annotations

import dataclasses
import math

from voltana.predictors.conformal import Conformal
from voltana.predictors.groups import ByTokens, by_phase, one_group
from voltana.predictors.label_ledger import LabelLedger
from voltana.predictors.quantile_tracker import QuantileTracker
from voltana.promise import Statement
from voltana.testing import samples
from voltana.values import Forecast, Status

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


class SignFlip(Conformal):
    def _score(self, tracker, missed, weight, certified, part):
        super()._score(tracker, not missed, weight, certified, part)


class LostUpdate(Conformal):
    """The second of two labels without a forecast between them is lost, as in a race."""

    raced = False

    def forecast(self, load, clocks_mhz):
        self.raced = False
        return super().forecast(load, clocks_mhz)

    def _score(self, tracker, missed, weight, certified, part):
        if not self.raced:
            super()._score(tracker, missed, weight, certified, part)
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


class WrongGroup(Conformal):
    """Scores a label in the group that came first."""

    def _tracker(self, group):
        super()._tracker(group)
        return next(iter(self._groups.values()))


class TwiceCounted(Conformal):
    def _score(self, tracker, missed, weight, certified, part):
        super()._score(tracker, missed, weight, certified, part)
        super()._score(tracker, missed, weight, certified, part)


class Forgetful(LabelLedger):
    def admit(self, issuer, sequence):
        return True


class TakenTwice(Conformal):
    """Takes a duplicate for a label."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._ledger = Forgetful()


class SaturatedOnly(Conformal):
    """Learns its margin from uncertified labels alone."""

    def _score(self, tracker, missed, weight, certified, part):
        if not certified:
            super()._score(tracker, missed, weight, certified, part)


class DroppedMisses(Conformal):
    """Drops every label of an unsettled clock, certified misses included."""

    def _judge(self, outcome, decision, promise, part, *, missed, settled):
        certified = decision.status is Status.CERTIFIED
        if settled or not (certified and missed):
            super()._judge(outcome, decision, promise, part, missed=missed, settled=settled)


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
    class Mutant(Conformal):
        def _tracker(self, group):
            if group not in self._groups:
                self._groups[group] = tracker(self.statement, self._quantile(group))
            return self._groups[group]

    return Mutant


class GateOpen(Conformal):
    """Certifies whatever the margin."""

    def _part(self, group, from_mhz, *, known):
        part = super()._part(group, from_mhz, known=known)
        return dataclasses.replace(part, certifiable=part.quantile < math.inf)


MUTANTS = {
    "sign flip": SignFlip,
    "lost update": LostUpdate,
    "re-predicted score": PredictedAgain,
    "requested clock": RequestedClock,
    "wrong group": WrongGroup,
    "double scoring": TwiceCounted,
    "duplicates taken": TakenTwice,
    "saturated only": SaturatedOnly,
    "unsettled misses dropped": DroppedMisses,
    "clip at q_cert": _tracked_by(_Clipped),
    "capped weight": _tracked_by(_Capped),
    "wrong step": _tracked_by(_FullStep),
    "open gate": GateOpen,
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
