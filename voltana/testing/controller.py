"""The contract of `voltana.ports.Controller`, as named checks."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.levels import resolve
from voltana.ports import Controller
from voltana.testing import samples
from voltana.testing.report import NotApplicable, Report, expect, run_checks, title_of
from voltana.testing.timing import fastest_s
from voltana.values import EMPTY_QUEUE, UNBOUNDED, Decision, Load, Outcome, Queue, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from voltana.values import Observation

MAX_REASONS = 24
"""More distinct reasons than this over a few hundred decisions are no closed vocabulary."""


@dataclass(frozen=True, slots=True)
class _Subject:
    make: Callable[[], Controller]
    levels_mhz: tuple[float, ...]
    time_limit_s: float


def check_controller(
    factory: Callable[[], Controller],
    *,
    levels_mhz: Sequence[float] = samples.CLOCKS_MHZ,
    time_limit_s: float = 0.005,
    skip: Collection[str] = (),
) -> Report:
    """Hold a controller to its contract.

    It is taught as the loop would teach it: a controller with a ``predictor`` attribute gets every
    outcome through that predictor's learn(). Train the predictor in the factory to check a
    controller whose predictor is not reachable that way.

    Args:
        factory: Makes a fresh controller for every check; two of them must be alike.
        levels_mhz: Levels that the loop would clamp it to, ascending; those of an A100 by default.
        time_limit_s: What one decision may take.
        skip: Names of checks to leave out; those of `CONTROLLER_CHECKS`.
    """
    subject = _Subject(factory, tuple(levels_mhz), time_limit_s)
    return run_checks(title_of(factory), subject, CONTROLLER_CHECKS, skip)


def has_the_method_of_the_port(subject: _Subject) -> None:
    """A controller has decide(observation); it needs no base class."""
    made = subject.make()
    expect(isinstance(made, Controller), f"{type(made).__name__} has no decide()", "Add it.")


def decides_on_every_phase(subject: _Subject) -> None:
    """decide() returns a Decision, fresh or taught, for prefill, decode and mixed batches."""
    for controller in (subject.make(), _experienced(subject)):
        _expect_valid(controller, [samples.observation(load) for load in samples.LOADS.values()])


def decides_when_idle(subject: _Subject) -> None:
    """An empty load, before and after work, yields a decision."""
    idle = [samples.observation(samples.IDLE, now_s) for now_s in (50.0, 50.2, 58.0)]
    _expect_valid(subject.make(), idle)
    _expect_valid(_experienced(subject), idle)


def decides_on_a_huge_queue(subject: _Subject) -> None:
    """A queue of a million requests with full deadline buckets yields a decision."""
    queue = samples.deadlines(10.0, 1_000_000, 0.01, 0.001)
    loads = samples.LOADS.values()
    _expect_valid(subject.make(), [samples.observation(load, queue=queue) for load in loads])
    _expect_valid(_experienced(subject), [samples.observation(ld, queue=queue) for ld in loads])


def decides_without_sensors(subject: _Subject) -> None:
    """Unknown power, clock, target and last latency (nan) and a stale sample yield a decision."""
    blind = dict.fromkeys(("clock_mhz", "target_mhz", "power_w", "last_latency_s"), math.nan)
    observations = [
        samples.observation(load, **(blind if unknown is None else {unknown: math.nan}))
        for load in (*samples.LOADS.values(), samples.IDLE)
        for unknown in (None, *blind)
    ]
    observations.append(samples.observation(samples.LOADS["a decode batch"], sampled_at_s=-100.0))
    _expect_valid(subject.make(), observations)
    _expect_valid(_experienced(subject), observations)


def decides_when_the_budget_is_spent(subject: _Subject) -> None:
    """A request that waited past its threshold, and deadlines in the past, yield a decision."""
    late = samples.deadlines(10.0, 8, -30.0, 0.5)
    queues = (Queue(requests=3, tokens=900, oldest_wait_s=1e4), late)
    loads = [samples.LOADS["a short prompt"], samples.LOADS["a mixed batch"]]
    observations = [samples.observation(ld, queue=queue) for ld in loads for queue in queues]
    _expect_valid(subject.make(), observations)
    _expect_valid(_experienced(subject), observations)


def decides_within_any_bounds(subject: _Subject) -> None:
    """Caps, floors, empty and contradictory ranges yield a decision."""
    observations = [
        samples.observation(load, bounds=bounds)
        for load in (*samples.LOADS.values(), samples.IDLE)
        for bounds in samples.bounds_to_try()
    ]
    _expect_valid(subject.make(), observations)
    _expect_valid(_experienced(subject), observations)


def decides_twice_at_one_time(subject: _Subject) -> None:
    """Two observations may carry the same time, the first may carry zero."""
    load = samples.LOADS["a decode batch"]
    times_s = (0.0, 0.0, 1.0, 1.0, 1.0, 1e6, 1e6)
    _expect_valid(subject.make(), [samples.observation(load, now_s) for now_s in times_s])


def gives_a_reason(subject: _Subject) -> None:
    """The reason is a short line of words, never empty."""
    for decision in _decisions(subject):
        reason = decision.reason
        holds = isinstance(reason, str) and reason.strip() and len(reason.splitlines()) == 1
        remedy = "Say in a few words why, for logs and people."
        expect(holds and len(reason) <= 120, f"reason = {reason!r}", remedy)


def reasons_are_a_closed_vocabulary(subject: _Subject) -> None:
    """Reasons can be counted: they hold no figures that differ from decision to decision."""
    reasons = {str(decision.reason) for decision in _decisions(subject)}
    seen = f"{len(reasons)} distinct reasons, such as {sorted(reasons)[:3]}"
    remedy = "Leave figures out of the reason; decisions are logged with theirs."
    expect(len(reasons) <= MAX_REASONS, seen, remedy)


def budget_is_a_number(subject: _Subject) -> None:
    """budget_s is never nan; inf stands for none, and a negative one for a missed threshold."""
    for decision in _decisions(subject):
        budget_s = decision.budget_s
        holds = isinstance(budget_s, (int, float)) and not math.isnan(budget_s)
        expect(holds, f"budget_s = {budget_s!r}", "Use inf where there is no budget.")


def certifies_only_what_holds(subject: _Subject) -> None:
    """A certified decision carries a forecast whose upper bound fits its budget at its clock."""
    for decision in _decisions(subject):
        if decision.status is not Status.CERTIFIED:
            continue
        remedy = "Certify with voltana.planning.lowest_safe_decision, or claim void."
        expect(decision.forecast is not None, "certified without a forecast", remedy)
        upper_s = decision.forecast.upper_at(decision.clock_mhz) if decision.forecast else math.inf
        seen = f"upper {upper_s:g} s at {decision.clock_mhz:g} MHz, budget {decision.budget_s:g} s"
        expect(upper_s <= decision.budget_s < math.inf, seen, remedy)


def promises_nothing_without_a_forecast(subject: _Subject) -> None:
    """Without a forecast the status is void: there is nothing that a promise could stand on."""
    for decision in _decisions(subject):
        seen = f"status {decision.status} without a forecast ({decision.reason})"
        holds = decision.forecast is not None or decision.status is Status.VOID
        expect(holds, seen, "Leave the status at its default.")


def saturates_at_the_fastest(subject: _Subject) -> None:
    """A saturated decision asks for the fastest permitted clock: unsafe means fast, not slow."""
    for decision in _decisions(subject):
        if decision.status is not Status.SATURATED:
            continue
        known = decision.forecast.clocks_mhz.tolist() if decision.forecast else subject.levels_mhz
        wanted = resolve(decision.clock_mhz, known, UNBOUNDED)
        seen = f"{decision.clock_mhz:g} MHz with {known[-1]:g} MHz at hand ({decision.reason})"
        expect(wanted == known[-1], seen, "Ask for the fastest level where none is safe.")


def keeps_the_observation(subject: _Subject) -> None:
    """decide() does not touch what it was given."""
    controller = _experienced(subject)
    for seen_first in samples.history(20, seed=1):
        before = copy.deepcopy(seen_first)
        controller.decide(seen_first)
        seen = "the observation differs after decide()"
        expect(repr(seen_first) == repr(before), seen, "Copy a value before you change it.")


def decisions_stay_as_made(subject: _Subject) -> None:
    """A decision that was handed out, its forecast included, never changes: it is scored later."""
    controller = _experienced(subject)
    load = samples.LOADS["a decode batch"]
    decision = controller.decide(samples.observation(load, 60.0))
    before = copy.deepcopy(decision)
    for later in samples.history(20, seed=2):
        _teach(controller, later, controller.decide(later))
    seen = "an earlier decision changed after later ones"
    expect(_text(decision) == _text(before), seen, "Return new values and arrays.")


def is_deterministic(subject: _Subject) -> None:
    """Two fresh controllers with one history decide the same."""
    one, other = ([_text(d) for d in _decisions(subject)] for _ in range(2))
    differ = sum(a != b for a, b in zip(one, other, strict=True))
    seen = f"{differ} of {len(one)} decisions differ between two instances"
    expect(differ == 0, seen, "Take a seed; read time from the observation alone.")


def memory_is_bounded(subject: _Subject) -> None:
    """What a controller holds does not grow with the decisions made, beyond its windows."""
    controller = subject.make()
    early = _size(_run(controller, 10.0, 2000))
    late = _size(_run(controller, 60.0, 2000))
    seen = f"pickled size {early} bytes after 2000 decisions, {late} after 4000"
    remedy = "Keep a window of bounded length (time or count), no history."
    expect(late <= 1.1 * early + 1024, seen, remedy)


def answers_in_time(subject: _Subject) -> None:
    """One decision keeps the time limit (5 ms unless told otherwise)."""
    controller = _experienced(subject)
    busy = samples.observation(samples.LOADS["a decode batch"], 60.0)
    took_s = fastest_s(lambda: controller.decide(busy))
    seen = f"{1e3 * took_s:.2f} ms at best, limit {1e3 * subject.time_limit_s:g} ms"
    expect(took_s <= subject.time_limit_s, seen, "Forecast all levels in one call.")


CONTROLLER_CHECKS: tuple[Callable[[_Subject], None], ...] = (
    has_the_method_of_the_port,
    decides_on_every_phase,
    decides_when_idle,
    decides_on_a_huge_queue,
    decides_without_sensors,
    decides_when_the_budget_is_spent,
    decides_within_any_bounds,
    decides_twice_at_one_time,
    gives_a_reason,
    reasons_are_a_closed_vocabulary,
    budget_is_a_number,
    certifies_only_what_holds,
    promises_nothing_without_a_forecast,
    saturates_at_the_fastest,
    keeps_the_observation,
    decisions_stay_as_made,
    is_deterministic,
    memory_is_bounded,
    answers_in_time,
)
"""The suite that `check_controller` runs."""


def _teach(controller: Controller, observation: Observation, decision: Decision) -> None:
    """Close the loop with the linear plant, as `voltana.loop` does with a real one."""
    learn = getattr(getattr(controller, "predictor", None), "learn", None)
    if learn is None or observation.load == samples.IDLE:
        return
    clock_mhz = resolve(decision.clock_mhz, samples.CLOCKS_MHZ, observation.bounds)
    latency_s = samples.linear_latency_s(observation.load, clock_mhz)
    learn(
        Outcome(
            load=observation.load,
            clock_mhz=clock_mhz,
            latency_s=latency_s,
            ended_at_s=observation.now_s + latency_s,
            decision=decision,
        )
    )


def _experienced(subject: _Subject) -> Controller:
    controller = subject.make()
    for observation in samples.history():
        _teach(controller, observation, controller.decide(observation))
    return controller


def _decisions(subject: _Subject) -> list[Decision]:
    """What a controller decides while it learns, and then in every kind of situation."""
    controller, made = subject.make(), []
    for observation in samples.history(150):
        made.append(controller.decide(observation))
        _teach(controller, observation, made[-1])
    return made + [controller.decide(situation) for situation in _situations()]


def _situations() -> Iterator[Observation]:
    late = Queue(requests=3, tokens=900, oldest_wait_s=1e4)
    for load in (*samples.LOADS.values(), samples.IDLE):
        for queue in (EMPTY_QUEUE, late, samples.deadlines(60.0, 32, -0.1, 0.05)):
            yield samples.observation(load, 60.0, queue=queue)
        for bounds in samples.bounds_to_try():
            yield samples.observation(load, 61.0, bounds=bounds)


def _expect_valid(controller: Controller, observations: Iterable[Observation]) -> None:
    for observation in observations:
        decision = controller.decide(observation)
        where = f"for {observation.load.phase} with {observation.queue.requests} queued"
        remedy = "Return voltana.values.Decision with a clock in MHz."
        expect(isinstance(decision, Decision), f"{type(decision).__name__} {where}", remedy)
        clock = decision.clock_mhz
        holds = isinstance(clock, (int, float)) and clock >= 0
        remedy = "Ask for a clock of 0 MHz or more; inf asks for the fastest."
        expect(holds, f"clock_mhz = {clock!r} {where}", remedy)
        expect(isinstance(decision.status, Status), f"status = {decision.status!r}", remedy)


def _run(controller: Controller, start_s: float, count: int) -> Controller:
    load = Load.decode(32, 16_000)
    for i in range(count):
        observation = samples.observation(load, start_s + 0.02 * i)
        _teach(controller, observation, controller.decide(observation))
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
