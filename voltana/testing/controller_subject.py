"""What the checks of a controller share: the subject, its teacher, and situations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.levels import resolve
from voltana.ports import HoldsPredictor, Predictor
from voltana.testing import samples
from voltana.testing.report import expect
from voltana.values import EMPTY_QUEUE, Decision, Outcome, Queue, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from voltana.ports import Controller
    from voltana.values import Observation


@dataclass(frozen=True, slots=True)
class ControllerSubject:
    """What `check_controller` was given."""

    make: Callable[[], Controller]
    levels_mhz: tuple[float, ...]
    time_limit_s: float


def teach(controller: Controller, observation: Observation, decision: Decision) -> None:
    """Close the loop with the linear plant, as `voltana.loop` does with a real one."""
    predictor = controller.predictor if isinstance(controller, HoldsPredictor) else None
    if not isinstance(predictor, Predictor) or observation.load == samples.IDLE:
        return
    clock_mhz = resolve(decision.clock_mhz, samples.CLOCKS_MHZ, observation.bounds)
    latency_s = samples.linear_latency_s(observation.load, clock_mhz)
    predictor.learn(
        Outcome(
            load=observation.load,
            clock_mhz=clock_mhz,
            latency_s=latency_s,
            ended_at_s=observation.now_s + latency_s,
            decision=decision,
        )
    )


def experienced(subject: ControllerSubject) -> Controller:
    """A controller that has seen a varied history, and was taught by it."""
    controller = subject.make()
    for observation in samples.history():
        teach(controller, observation, controller.decide(observation))
    return controller


def decisions(subject: ControllerSubject) -> list[Decision]:
    """What a controller decides while it learns, and then in every kind of situation."""
    controller, made = subject.make(), []
    for observation in samples.history(150):
        made.append(controller.decide(observation))
        teach(controller, observation, made[-1])
    return made + [controller.decide(situation) for situation in _situations()]


def _situations() -> Iterator[Observation]:
    now_s = 60.0
    for load in (*samples.LOADS.values(), samples.IDLE):
        late = Queue(requests=3, tokens=900, oldest_wait_s=1e4)
        for queue in (EMPTY_QUEUE, late, samples.deadlines(now_s, 32, -0.1, 0.05)):
            yield samples.observation(load, now_s, queue=queue)
            now_s += 0.05
        for bounds in samples.bounds_to_try():
            yield samples.observation(load, now_s, bounds=bounds)
            now_s += 0.05


def expect_valid(controller: Controller, observations: Iterable[Observation]) -> None:
    """Raise a violation unless every observation yields a usable decision."""
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
