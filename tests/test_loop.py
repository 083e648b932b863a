"""The loop composes the ports: it clamps, certifies after the clamp, applies changes, teaches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.honest import HonestActuator, HonestController
from voltana.errors import ActuatorError, ConfigError
from voltana.levels import A100_CLOCKS_MHZ
from voltana.loop import ControlLoop
from voltana.testing import strategies as vst
from voltana.timebase import ManualTime
from voltana.values import (
    Decision,
    Domain,
    Exposure,
    Forecast,
    Limit,
    Load,
    Queue,
    Reading,
    Status,
)

BUSY = Load.decode(8, 4000)
LEVELS = (600.0, 1005.0, 1410.0)
FORECAST = Forecast(
    clocks_mhz=np.array(LEVELS),
    mean_s=np.array([0.07, 0.04, 0.02]),
    upper_s=np.array([0.08, 0.05, 0.03]),
)


class Stub:
    """A controller that says what it is told to, and keeps what it saw."""

    def __init__(self, **proposal):
        self.proposal = {"clock_mhz": 1410.0, "reason": "stub"} | proposal
        self.seen = []

    def decide(self, observation):
        self.seen.append(observation)
        return Decision(**self.proposal)


class Recorder(HonestActuator):
    def __init__(self):
        super().__init__()
        self.commands = []
        self.failing = False

    def apply(self, command):
        if self.failing:
            raise ActuatorError("the driver does not answer")
        super().apply(command)
        self.commands.append(command)


class Board:
    """A sensor that reads what it is told to."""

    def __init__(self, time):
        self.time = time
        self.clock_mhz = 1410.0
        self.power_w = 300.0

    def read(self):
        return Reading(
            at_s=self.time.now_s() - 0.001,
            clock_mhz=self.clock_mhz,
            power_w=self.power_w,
            energy_j=0.0,
        )


class Learner:
    def __init__(self):
        self.outcomes = []
        self.windows = []

    def learn(self, outcome):
        self.outcomes.append(outcome)

    def learn_window(self, energy_j, exposures):
        self.windows.append((energy_j, exposures))


class Rig:
    def __init__(self, controller=None, *, levels_mhz=LEVELS, **options):
        self.time = ManualTime(100.0)
        self.board = Board(self.time)
        self.actuator = Recorder()
        self.controller = controller or Stub()
        self.learner = Learner()
        self.loop = ControlLoop(
            instance="d0",
            domain=Domain(name="d0"),
            controller=self.controller,
            actuator=self.actuator,
            sensor=self.board,
            time=self.time,
            levels_mhz=levels_mhz,
            predictor=self.learner,
            power=self.learner,
            **options,
        )

    @property
    def clocks_mhz(self):
        return [command.clock_mhz for command in self.actuator.commands]


@pytest.mark.parametrize("levels_mhz", [(), (1410.0, 1005.0), (1005.0, 1005.0)])
def test_levels_must_be_ascending(levels_mhz):
    with pytest.raises(ConfigError, match=r"levels_mhz = .*ascending.*voltana\.levels"):
        Rig(levels_mhz=levels_mhz)


def test_the_controller_sees_what_the_sensors_and_the_engine_say():
    rig = Rig(limits=[Limit(source="operator", max_mhz=1200.0)])
    rig.board.power_w = math.nan
    queue = Queue(requests=3, tokens=900)
    rig.loop.decide(BUSY, queue)
    rig.time.advance(1.0)
    rig.loop.learn(None, load=BUSY, latency_s=0.021, clock_mhz=1005.0, ended_at_s=101.0)
    rig.loop.decide(BUSY)
    first, second = rig.controller.seen
    assert (first.instance, first.load, first.queue) == ("d0", BUSY, queue)
    assert (first.now_s, first.sampled_at_s, second.now_s) == (100.0, 99.999, 101.0)
    assert first.clock_mhz == 1410.0
    assert math.isnan(first.power_w)
    assert math.isnan(first.target_mhz)
    assert math.isnan(first.last_latency_s)
    assert (second.target_mhz, second.last_latency_s) == (1005.0, 0.021)
    assert (first.bounds.max_mhz, first.bounds.max_source) == (1200.0, "operator")


@given(st.one_of(st.floats(0, 5000), st.just(math.nan), st.just(math.inf)), st.lists(vst.limits()))
def test_whatever_is_proposed_a_level_is_applied_and_the_cap_wins(clock_mhz, limits):
    rig = Rig(Stub(clock_mhz=clock_mhz), limits=limits)
    decision = rig.loop.decide(BUSY)
    assert decision.clock_mhz in LEVELS
    assert rig.clocks_mhz == [decision.clock_mhz]
    in_force = {limit.source: limit for limit in limits}.values()
    cap_mhz = min((x.max_mhz for x in in_force if x.expires_at_s > 100.0), default=math.inf)
    assert decision.clock_mhz <= cap_mhz or decision.clock_mhz == LEVELS[0]


def test_a_demand_between_levels_rounds_up():
    assert Rig(Stub(clock_mhz=700.0)).loop.decide(BUSY).clock_mhz == 1005.0


def test_the_promise_is_made_after_the_clamp():
    promised = {"forecast": FORECAST, "budget_s": 0.06, "status": Status.CERTIFIED}
    rig = Rig(Stub(clock_mhz=1005.0, **promised))
    assert rig.loop.decide(BUSY).status is Status.CERTIFIED
    rig.loop.set_limit(Limit(source="operator", max_mhz=700.0))
    capped = rig.loop.decide(BUSY)
    assert (capped.clock_mhz, capped.status) == (600.0, Status.SATURATED)
    assert capped.forecast is FORECAST
    assert capped.budget_s == 0.06
    assert capped.reason == "stub"


def test_the_promise_is_made_at_the_slowest_clock_in_force():
    rig = Rig(Stub(clock_mhz=1410.0, forecast=FORECAST, budget_s=0.06, status=Status.CERTIFIED))
    rig.board.clock_mhz = 600.0
    assert rig.loop.decide(BUSY).status is Status.VOID
    rig.board.clock_mhz = 1410.0
    assert rig.loop.decide(BUSY).status is Status.CERTIFIED


def test_an_earlier_slow_command_that_has_not_settled_spoils_the_promise():
    rig = Rig(Stub(clock_mhz=600.0))
    rig.loop.decide(BUSY)  # on its way down, while the board still runs at 1410 MHz
    rig.controller.proposal |= {"clock_mhz": 1410.0, "forecast": FORECAST, "budget_s": 0.06}
    assert rig.loop.decide(BUSY).status is Status.VOID


def test_a_false_claim_is_not_believed():
    rig = Rig(Stub(clock_mhz=600.0, status=Status.CERTIFIED, forecast=FORECAST, budget_s=0.06))
    assert rig.loop.decide(BUSY).status is Status.SATURATED
    rig = Rig(Stub(clock_mhz=600.0, status=Status.CERTIFIED, budget_s=0.06))
    assert rig.loop.decide(BUSY).status is Status.VOID


def test_only_changes_are_applied_and_sequence_numbers_rise():
    rig = Rig()
    for clock_mhz in (1410.0, 1410.0, 600.0, 600.0, 1410.0):
        rig.controller.proposal["clock_mhz"] = clock_mhz
        rig.loop.decide(BUSY)
        rig.time.advance(0.01)
    assert rig.clocks_mhz == [1410.0, 600.0, 1410.0]
    assert [command.sequence for command in rig.actuator.commands] == [0, 1, 2]


def test_an_unchanged_clock_is_asked_for_again_before_its_lease_ends():
    rig = Rig(lease_s=2.0)
    applied_s = []
    for _ in range(600):
        rig.loop.decide(BUSY)
        if len(rig.actuator.commands) > len(applied_s):
            applied_s.append(rig.time.now_s())
        rig.time.advance(0.01)
    gaps_s = np.diff(applied_s)
    assert 3 <= len(gaps_s) <= 6
    assert (gaps_s < 2.0).all()
    assert {command.lease_s for command in rig.actuator.commands} == {2.0}


def test_a_command_that_failed_is_sent_again():
    rig = Rig()
    rig.actuator.failing = True
    with pytest.raises(ActuatorError, match="does not answer"):
        rig.loop.decide(BUSY)
    rig.actuator.failing = False
    rig.loop.decide(BUSY)
    assert rig.clocks_mhz == [1410.0]
    assert math.isnan(rig.controller.seen[1].target_mhz)


def test_limits_expire_are_replaced_and_lifted():
    rig = Rig(limits=[Limit(source="schedule", max_mhz=1005.0, expires_at_s=105.0)])
    assert rig.loop.decide(BUSY).clock_mhz == 1005.0
    rig.loop.set_limit(Limit(source="operator", max_mhz=600.0))
    assert rig.loop.decide(BUSY).clock_mhz == 600.0
    rig.loop.set_limit(Limit(source="operator", max_mhz=1100.0))
    assert rig.loop.decide(BUSY).clock_mhz == 1005.0
    rig.time.advance(5.0)
    assert rig.loop.decide(BUSY).clock_mhz == 1005.0
    rig.loop.clear_limit("operator")
    rig.loop.clear_limit("nobody")
    assert rig.loop.decide(BUSY).clock_mhz == 1410.0


def test_learning_uses_the_achieved_clock_and_the_decision_as_issued():
    rig = Rig(Stub(clock_mhz=1410.0, forecast=FORECAST, budget_s=0.06))
    decision = rig.loop.decide(BUSY)
    outcome = rig.loop.learn(
        decision, load=BUSY, latency_s=0.033, clock_mhz=1312.5, ended_at_s=100.033
    )
    assert rig.learner.outcomes == [outcome]
    assert (outcome.clock_mhz, outcome.latency_s, outcome.ended_at_s) == (1312.5, 0.033, 100.033)
    assert outcome.load == BUSY
    assert outcome.decision is decision
    assert outcome.decision.forecast is FORECAST


def test_energy_windows_reach_the_power_predictor():
    rig = Rig()
    window = [Exposure(load=BUSY, clock_mhz=1410.0, duration_s=0.1)]
    rig.loop.learn_energy(30.0, window)
    assert rig.learner.windows == [(30.0, window)]


def test_close_gives_the_clocks_back():
    rig = Rig()
    rig.loop.decide(BUSY)
    rig.loop.close()
    assert rig.actuator.closed
    rig.controller.proposal["clock_mhz"] = 600.0
    with pytest.raises(ActuatorError, match="closed"):
        rig.loop.decide(BUSY)


def test_a_policy_that_learns_closes_the_loop():
    controller = HonestController()
    rig = Rig(controller, levels_mhz=A100_CLOCKS_MHZ)
    rig.loop.predictor = controller.predictor
    latency_s = {mhz: 0.01 + 0.02 * 1410 / mhz for mhz in A100_CLOCKS_MHZ}
    rng = np.random.default_rng(0)
    for _ in range(60):
        load = Load.decode(int(rng.integers(1, 64)), int(rng.integers(1_000, 60_000)))
        decision = rig.loop.decide(load)
        rig.board.clock_mhz = decision.clock_mhz
        # The board wanders, or nothing could be learned of other clocks.
        mhz = float(rng.choice(A100_CLOCKS_MHZ))
        rig.loop.learn(decision, load=load, latency_s=latency_s[mhz], clock_mhz=mhz, ended_at_s=0.0)
    lowest = next(mhz for mhz in A100_CLOCKS_MHZ if 1.1 * latency_s[mhz] <= 0.06)
    rig.board.clock_mhz = rig.loop.decide(BUSY).clock_mhz
    decision = rig.loop.decide(BUSY)
    assert abs(decision.clock_mhz - lowest) <= 15.0
    assert decision.status is Status.CERTIFIED


def test_every_decision_is_one_debug_event_with_its_reason():
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(10))
    rig = Rig(Stub(clock_mhz=700.0, reason="in between", forecast=FORECAST, budget_s=0.06))
    with capture_logs() as events:
        rig.loop.decide(BUSY, Queue(requests=5))
        rig.loop.decide(BUSY)
    assert len(events) == 2
    expected = {
        "event": "decision",
        "log_level": "debug",
        "instance": "d0",
        "wanted_mhz": 700.0,
        "clock_mhz": 1005.0,
        "reason": "in between",
        "status": "certified",
        "budget_s": 0.06,
        "phase": "decode",
        "decode_requests": 8,
        "queued": 5,
    }
    assert expected.items() <= events[0].items()


@pytest.mark.parametrize(
    "options",
    [
        {"wrapper_class": structlog.make_filtering_bound_logger(20)},
        {
            "wrapper_class": structlog.stdlib.BoundLogger,
            "logger_factory": structlog.stdlib.LoggerFactory(),
        },
    ],
    ids=["filtering logger at info", "stdlib logger at its default of warning"],
)
def test_where_debug_is_off_nothing_is_logged(options):
    structlog.configure(**options)
    rig = Rig()
    with capture_logs() as events:
        rig.loop.decide(BUSY)
    assert events == []


def test_a_program_that_configured_no_logging_gets_no_event_per_iteration(capsys):
    structlog.reset_defaults()
    Rig().loop.decide(BUSY)
    assert capsys.readouterr().out == ""


def test_a_stdlib_logger_at_debug_gets_the_events(caplog):
    structlog.configure(
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        processors=[structlog.processors.KeyValueRenderer(key_order=["event", "reason"])],
    )
    with caplog.at_level("DEBUG", logger="voltana.loop"):
        Rig().loop.decide(BUSY)
    assert ["event='decision' reason='stub'" in text for text in caplog.messages] == [True]


def test_a_logger_that_cannot_tell_its_level_gets_the_events():
    structlog.configure(wrapper_class=structlog.BoundLogger)
    rig = Rig()
    with capture_logs() as events:
        rig.loop.decide(BUSY)
    assert [event["event"] for event in events] == ["decision"]


def test_decisions_are_not_copied_without_need():
    rig = Rig(Stub(clock_mhz=1410.0))
    kept = Decision(clock_mhz=1410.0, reason="same every time")
    rig.controller.decide = lambda observation: kept
    assert rig.loop.decide(BUSY) is kept
