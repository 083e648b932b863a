"""Checks of what a controller's decisions say and promise, and of what it keeps to itself."""

from __future__ import annotations

import copy
import math
import pickle
from typing import TYPE_CHECKING

from voltana.levels import resolve
from voltana.testing import samples
from voltana.testing.controller_subject import ControllerSubject, decisions, experienced, teach
from voltana.testing.report import NotApplicable, expect
from voltana.testing.timing import fastest_s
from voltana.values import UNBOUNDED, Decision, Load, Status

if TYPE_CHECKING:
    from voltana.ports import Controller

MAX_REASONS = 24
"""More distinct reasons than this over a few hundred decisions are no closed vocabulary."""


def gives_a_reason(subject: ControllerSubject) -> None:
    """The reason is a short line of words, never empty."""
    for decision in decisions(subject):
        reason = decision.reason
        holds = isinstance(reason, str) and reason.strip() and len(reason.splitlines()) == 1
        remedy = "Say in a few words why, for logs and people."
        expect(holds and len(reason) <= 120, f"reason = {reason!r}", remedy)


def reasons_are_a_closed_vocabulary(subject: ControllerSubject) -> None:
    """Reasons can be counted: they hold no figures that differ from decision to decision."""
    reasons = {str(decision.reason) for decision in decisions(subject)}
    seen = f"{len(reasons)} distinct reasons, such as {sorted(reasons)[:3]}"
    remedy = "Leave figures out of the reason; decisions are logged with theirs."
    expect(len(reasons) <= MAX_REASONS, seen, remedy)


def budget_is_a_number(subject: ControllerSubject) -> None:
    """budget_s is never nan; inf stands for none, and a negative one for a missed threshold."""
    for decision in decisions(subject):
        budget_s = decision.budget_s
        holds = isinstance(budget_s, (int, float)) and not math.isnan(budget_s)
        expect(holds, f"budget_s = {budget_s!r}", "Use inf where there is no budget.")


def certifies_only_what_holds(subject: ControllerSubject) -> None:
    """A certified decision carries a forecast whose upper bound fits its budget at its clock."""
    for decision in decisions(subject):
        if decision.status is not Status.CERTIFIED:
            continue
        remedy = "Certify with voltana.planning.lowest_safe_decision, or claim void."
        expect(decision.forecast is not None, "certified without a forecast", remedy)
        upper_s = decision.forecast.upper_at(decision.clock_mhz) if decision.forecast else math.inf
        seen = f"upper {upper_s:g} s at {decision.clock_mhz:g} MHz, budget {decision.budget_s:g} s"
        expect(upper_s <= decision.budget_s < math.inf, seen, remedy)


def promises_nothing_without_a_forecast(subject: ControllerSubject) -> None:
    """Without a forecast the status is void: there is nothing that a promise could stand on."""
    for decision in decisions(subject):
        seen = f"status {decision.status} without a forecast ({decision.reason})"
        holds = decision.forecast is not None or decision.status is Status.VOID
        expect(holds, seen, "Leave the status at its default.")


def saturates_at_the_fastest(subject: ControllerSubject) -> None:
    """A saturated decision asks for the fastest permitted clock: unsafe means fast, not slow."""
    for decision in decisions(subject):
        if decision.status is not Status.SATURATED:
            continue
        known = decision.forecast.clocks_mhz.tolist() if decision.forecast else subject.levels_mhz
        wanted = resolve(decision.clock_mhz, known, UNBOUNDED)
        seen = f"{decision.clock_mhz:g} MHz with {known[-1]:g} MHz at hand ({decision.reason})"
        expect(wanted == known[-1], seen, "Ask for the fastest level where none is safe.")


def keeps_the_observation(subject: ControllerSubject) -> None:
    """decide() does not touch what it was given."""
    controller = experienced(subject)
    for seen_first in samples.history(20, seed=1, start_s=60.0):
        before = copy.deepcopy(seen_first)
        controller.decide(seen_first)
        seen = "the observation differs after decide()"
        expect(repr(seen_first) == repr(before), seen, "Copy a value before you change it.")


def decisions_stay_as_made(subject: ControllerSubject) -> None:
    """A decision that was handed out, its forecast included, never changes: it is scored later."""
    controller = experienced(subject)
    load = samples.LOADS["a decode batch"]
    decision = controller.decide(samples.observation(load, 60.0))
    before = copy.deepcopy(decision)
    for later in samples.history(20, seed=2, start_s=60.0):
        teach(controller, later, controller.decide(later))
    seen = "an earlier decision changed after later ones"
    expect(_text(decision) == _text(before), seen, "Return new values and arrays.")


def is_deterministic(subject: ControllerSubject) -> None:
    """Two fresh controllers with one history decide the same."""
    one, other = ([_text(d) for d in decisions(subject)] for _ in range(2))
    differ = sum(a != b for a, b in zip(one, other, strict=True))
    seen = f"{differ} of {len(one)} decisions differ between two instances"
    expect(differ == 0, seen, "Take a seed; read time from the observation alone.")


def memory_is_bounded(subject: ControllerSubject) -> None:
    """What a controller holds does not grow with the decisions made, beyond its windows."""
    controller = subject.make()
    early = _size(_run(controller, 10.0, 2000))
    late = _size(_run(controller, 60.0, 2000))
    seen = f"pickled size {early} bytes after 2000 decisions, {late} after 4000"
    remedy = "Keep a window of bounded length (time or count), no history."
    expect(late <= 1.1 * early + 1024, seen, remedy)


def answers_in_time(subject: ControllerSubject) -> None:
    """One decision keeps the time limit (5 ms unless told otherwise)."""
    controller = experienced(subject)
    busy = samples.observation(samples.LOADS["a decode batch"], 60.0)
    took_s = fastest_s(lambda: controller.decide(busy))
    seen = f"{1e3 * took_s:.2f} ms at best, limit {1e3 * subject.time_limit_s:g} ms"
    expect(took_s <= subject.time_limit_s, seen, "Forecast all levels in one call.")


def _run(controller: Controller, start_s: float, count: int) -> Controller:
    load = Load.decode(32, 16_000)
    for i in range(count):
        observation = samples.observation(load, start_s + 0.02 * i)
        teach(controller, observation, controller.decide(observation))
    return controller


def _size(controller: Controller) -> int:
    try:
        return len(pickle.dumps(controller))
    except Exception as error:
        raise NotApplicable(f"it cannot be pickled, so its size is unknown ({error})") from error


def _text(decision: Decision) -> str:
    forecast = decision.forecast
    arrays = (forecast.mean_s.tolist(), forecast.upper_s.tolist()) if forecast else ()
    return (
        f"{decision.clock_mhz!r} {decision.reason} {decision.status} {decision.budget_s} {arrays}"
    )
