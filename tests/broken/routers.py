"""Routers that break one promise each."""

from __future__ import annotations

import math
import time

from tests.broken.shared import SHARED_RANDOM
from tests.honest import (
    HonestRouter,
)
from voltana.testing import samples
from voltana.values import Deferral


class NoRoute:
    pass


class ReturnsTheCandidate(HonestRouter):
    def route(self, request, candidates):
        return candidates[0]


class TwoAtLeast(HonestRouter):
    def route(self, request, candidates):
        _ = candidates[1]
        return super().route(request, candidates)


class NamesByIndex(HonestRouter):
    """Believes that the names are numbered from zero."""

    def route(self, request, candidates):
        chosen = int(super().route(request, candidates)[1:])
        return candidates[chosen].instance


class ParsesNames(HonestRouter):
    def route(self, request, candidates):
        return min(candidates, key=lambda c: int(c.instance[1:])).instance


class CountsInstancesOnce(HonestRouter):
    def __init__(self):
        self.count = None
        self.turn = 0

    def route(self, request, candidates):
        self.count = self.count or len(candidates)
        self.turn += 1
        return candidates[self.turn % self.count].instance


class NeedsPredictors(HonestRouter):
    def route(self, request, candidates):
        for candidate in candidates:
            candidate.predictor.to_dict()
        return super().route(request, candidates)


class NeedsLevels(HonestRouter):
    def route(self, request, candidates):
        _ = [c.levels_mhz[-1] for c in candidates]
        return super().route(request, candidates)


class NeedsABudget(HonestRouter):
    def route(self, request, candidates):
        _ = [int(1e3 * c.budget_s) for c in candidates]
        return super().route(request, candidates)


class FreshOnly(HonestRouter):
    def route(self, request, candidates):
        fresh = [c for c in candidates if c.state_age_s < 0.1]
        return super().route(request, fresh)


class NeedsRoom(HonestRouter):
    def route(self, request, candidates):
        return super().route(request, [c for c in candidates if c.state.kv_tokens < 10**6])


class DividesByRunning(HonestRouter):
    def route(self, request, candidates):
        if all(c.state.kv_tokens == c.reserved.requests == 0 for c in candidates):
            pass
        return min(
            candidates,
            key=lambda c: c.state.kv_tokens / (c.state.running_requests + c.reserved.requests),
        ).instance


class SameLevelsOnly(HonestRouter):
    def route(self, request, candidates):
        told = {c.levels_mhz for c in candidates if c.levels_mhz}
        if len(told) > 1:
            raise ValueError("levels differ")
        return super().route(request, candidates)


class ShortPromptsOnly(HonestRouter):
    def route(self, request, candidates):
        if request.prompt_tokens > 100_000:
            return ""
        return super().route(request, candidates)


class SortsInPlace(HonestRouter):
    def route(self, request, candidates):
        if isinstance(candidates, list):
            candidates.sort(key=lambda c: -c.state.running_requests)
        return super().route(request, candidates)


class AlwaysTheFirst(HonestRouter):
    def route(self, request, candidates):
        return candidates[0].instance


class IgnoresReservations(HonestRouter):
    def route(self, request, candidates):
        return min(candidates, key=lambda c: c.state.running_requests).instance


class GlobalRandom(HonestRouter):
    def route(self, request, candidates):
        return SHARED_RANDOM.choice(candidates).instance


class OwnLedger(HonestRouter):
    def __init__(self):
        self.sent = []

    def route(self, request, candidates):
        chosen = super().route(request, candidates)
        self.sent.append((request.request_id, chosen, object()))
        return chosen

    def __getstate__(self):
        return {"sent": [entry[:2] for entry in self.sent]}


class SlowRouter(HonestRouter):
    def route(self, request, candidates):
        if len(candidates) == 16:
            time.sleep(0.021)
        return super().route(request, candidates)


class Deferring(HonestRouter):
    """Defers what has some slack while every instance is far too full."""

    defers = True
    for_s = 0.05
    reason = "full"
    late_share = 0.0

    def route(self, request, candidates):
        if request.slack_s > 0 and all(self.full(c) for c in candidates):
            return Deferral(for_s=self.for_s, reason=self.reason, late_share=self.late_share)
        return super().route(request, candidates)

    def full(self, candidate):
        known = (
            candidate.levels_mhz
            and candidate.budget_s < math.inf
            and candidate.state_age_s < 0.1
            and candidate.predictor is not None
            and type(candidate.predictor) is samples.LinearSnapshot
        )
        return known and candidate.state.running_requests > 1000


class DefersWithoutSlack(Deferring):
    def route(self, request, candidates):
        if all(self.full(c) for c in candidates):
            return Deferral(for_s=0.05, reason="full")
        return super().route(request, candidates)


class DefersUntilItHasWaited(Deferring):
    """Holds a request for a second, whatever its deadline is."""

    def route(self, request, candidates):
        if request.waited_s < 1.0 and all(self.full(c) for c in candidates):
            return Deferral(for_s=0.05, reason="not yet")
        return super().route(request, candidates)


class DefersInSilence(Deferring):
    defers = False


class DefersForEver(Deferring):
    for_s = math.inf


class LetsMoreThanAllBeLate(Deferring):
    late_share = 2.0


class DefersForNoTime(Deferring):
    for_s = 0.0


class DefersWithoutAReason(Deferring):
    reason = ""


class DefersBlindly(Deferring):
    def full(self, candidate):
        return candidate.state.running_requests > 1000


class DefersWhatItDeferredOnce(Deferring):
    def __init__(self):
        self.deferred = set()

    def route(self, request, candidates):
        if request.slack_s > 0 and request.request_id in self.deferred:
            return Deferral(for_s=0.05, reason="again")
        answer = super().route(request, candidates)
        if isinstance(answer, Deferral):
            self.deferred.add(request.request_id)
        return answer


BROKEN = [
    ("has_the_method_of_the_port", NoRoute),
    ("names_a_candidate", ReturnsTheCandidate),
    ("names_a_candidate", TwoAtLeast),
    ("takes_any_order", NamesByIndex),
    ("takes_any_order", ParsesNames),
    ("follows_instances_that_come_and_go", CountsInstancesOnce),
    ("routes_without_predictors", NeedsPredictors),
    ("routes_without_levels_or_budget", NeedsLevels),
    ("routes_without_levels_or_budget", NeedsABudget),
    ("routes_on_stale_states", FreshOnly),
    ("routes_empty_and_overloaded_instances", NeedsRoom),
    ("routes_empty_and_overloaded_instances", DividesByRunning),
    ("routes_between_unlike_instances", SameLevelsOnly),
    ("routes_any_request", ShortPromptsOnly),
    ("keeps_its_inputs", SortsInPlace),
    ("starves_nobody_in_a_flood", AlwaysTheFirst),
    ("starves_nobody_in_a_flood", IgnoresReservations),
    ("is_deterministic", GlobalRandom),
    ("keeps_no_ledger", OwnLedger),
    ("answers_in_time", SlowRouter),
    ("defers_nothing_without_slack", DefersWithoutSlack),
    ("defers_nothing_without_slack", DefersUntilItHasWaited),
    ("says_that_it_defers", DefersInSilence),
    ("defers_for_a_time_and_a_reason", DefersForEver),
    ("defers_for_a_time_and_a_reason", LetsMoreThanAllBeLate),
    ("defers_for_a_time_and_a_reason", DefersForNoTime),
    ("defers_for_a_time_and_a_reason", DefersWithoutAReason),
    ("defers_nothing_blindly", DefersBlindly),
    ("lets_requests_in_where_there_is_room", DefersWhatItDeferredOnce),
]
"""Pairs of the check that has to notice and what breaks its promise."""
