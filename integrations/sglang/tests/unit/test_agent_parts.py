from __future__ import annotations

import dataclasses
import json
import math
from time import monotonic, sleep

import numpy as np
import pytest

from voltana.actuators import DryRun, RecordingActuator
from voltana.errors import ActuatorError, ConfigError
from voltana.policy import InstanceContext
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.profile import Stack, load_profile
from voltana.predictors.tables import TablePredictor, save_tables
from voltana.serving.agent.accounting import Account, ErrorTracker
from voltana.serving.agent.building import make_policy
from voltana.serving.agent.instance_clock import InstanceClock
from voltana.serving.agent.persistence import restore_predictor, save_predictor
from voltana.serving.agent.sensing import ClockHistory, EchoSensor, SampledSensor
from voltana.slo import Slo
from voltana.timebase import ManualTime
from voltana.values import (
    ActuatorStatus,
    Command,
    Domain,
    Health,
    Load,
    Outcome,
    Phase,
    Reading,
    Role,
)

DOMAIN = Domain(name="d")
STACK = Stack(hardware="h", model="m", engine="sglang", engine_version="0.5.23")


class Recorder:
    def __init__(self):
        self.commands = []
        self.closed = False

    def table(self):
        return (600.0, 900.0, 1410.0)

    def apply(self, command):
        assert not self.closed
        self.commands.append(command)

    def status(self):
        return ActuatorStatus(clock_mhz=900.0, target_mhz=math.nan)

    def close(self):
        self.closed = True


def command(clock_mhz, sequence=0, lease_s=2.0):
    return Command(domain=DOMAIN, clock_mhz=clock_mhz, sequence=sequence, lease_s=lease_s)


def test_the_most_demanding_loop_wins_while_its_lease_holds():
    time, recorder = ManualTime(), Recorder()
    shared = InstanceClock(lambda _dry: recorder, DOMAIN, time, dry_run=False)
    slow, fast = shared.member("a"), shared.member("b")
    slow.apply(command(600.0))
    fast.apply(command(1410.0))
    slow.apply(command(900.0))
    time.advance(1.0)
    slow.apply(command(900.0))
    time.advance(1.5)  # the fast one fell silent
    slow.apply(command(900.0))
    assert [c.clock_mhz for c in recorder.commands] == [600.0, 1410.0, 1410.0, 1410.0, 900.0]
    assert [c.sequence for c in recorder.commands] == [0, 1, 2, 3, 4]
    fast.apply(command(1410.0))
    fast.close()
    slow.apply(command(600.0))
    assert recorder.commands[-1].clock_mhz == 600.0
    assert not recorder.closed


def test_a_dry_run_acts_on_nothing_and_can_be_ended_and_begun_again():
    opened, time = [], ManualTime()

    def open_device(dry_run):
        if dry_run:
            return DryRun(RecordingActuator((600.0, 1410.0), time=time))
        opened.append(Recorder())
        return opened[-1]

    clock = InstanceClock(open_device, DOMAIN, time, dry_run=True)
    actuator = clock.member("a")
    actuator.apply(command(600.0))
    assert (opened, clock.dry_run, actuator.status().target_mhz) == ([], True, 600.0)
    with pytest.raises(ConfigError, match="Take a clock from table"):
        actuator.apply(command(900.0))
    clock.set_dry_run(dry_run=False)
    actuator.apply(command(900.0))
    assert [c.clock_mhz for c in opened[0].commands] == [900.0]
    assert actuator.table() == (600.0, 900.0, 1410.0)
    clock.set_dry_run(dry_run=True)
    assert opened[0].closed  # the default clocks are back
    actuator.apply(command(600.0))
    assert len(opened[0].commands) == 1
    clock.close()
    clock.close()
    assert clock.status().health is Health.LOST
    with pytest.raises(ActuatorError, match="closed"):
        actuator.apply(command(600.0))


def test_a_device_that_cannot_be_opened_is_left_alone():
    def open_device(dry_run):
        if not dry_run:
            raise ActuatorError("no daemon")
        return Recorder()

    clock = InstanceClock(open_device, DOMAIN, ManualTime(), dry_run=True)
    with pytest.raises(ActuatorError, match="no daemon"):
        clock.set_dry_run(dry_run=False)
    assert clock.dry_run


def test_a_device_that_is_not_known_says_what_is_lacking():
    clock = InstanceClock(
        lambda _dry: Recorder(), DOMAIN, ManualTime(), dry_run=False, lacking="no GPU."
    )
    assert clock.table() == ()
    assert (clock.status().health, clock.status().error) == (Health.LOST, "no GPU.")
    with pytest.raises(ConfigError, match="no GPU"):
        clock.known_table()
    with pytest.raises(ActuatorError, match="no GPU"):
        clock.member("a").apply(command(600.0))
    clock.close()


def test_the_mean_clock_of_an_iteration_holds_each_sample_until_the_next():
    history = ClockHistory()
    assert math.isnan(history.mean_mhz(0.0, 1.0))
    for at_s, clock_mhz in ((1.0, 600.0), (2.0, 1200.0), (2.5, 1200.0), (3.0, math.nan)):
        history.add(at_s, clock_mhz)
    assert history.mean_mhz(1.2, 1.8) == pytest.approx(600.0)
    assert history.mean_mhz(1.5, 2.5) == pytest.approx(900.0)
    assert history.mean_mhz(5.0, 6.0) == pytest.approx(1200.0)
    assert history.mean_mhz(0.0, 2.0) == pytest.approx(600.0)
    assert history.mean_mhz(0.2, 0.8) == pytest.approx(600.0)  # the first that is known
    assert history.mean_mhz(2.0, 2.0) == pytest.approx(1200.0)


@pytest.mark.parametrize("after", ["fails", "nothing", "infinite"])
def test_the_last_clock_of_a_sensor_that_fails_does_not_hold_for_ever(after):
    """Labels would go on at a clock below all levels, and none of them would count."""
    time, reads = ManualTime(10.0), []

    class Failing:
        def read(self):
            reads.append(time.now_s())
            time.advance(1.0)
            if len(reads) > 1 and after == "fails":
                raise ActuatorError("gone")
            clock_mhz = {"nothing": math.nan, "infinite": math.inf}.get(after, math.nan)
            return Reading(
                at_s=reads[-1], clock_mhz=485.0 if len(reads) == 1 else clock_mhz,
                power_w=1.0, energy_j=0.0,
            )  # fmt: skip

        def close(self):
            pass

    sensor = SampledSensor(Failing(), time, period_s=0.001)
    deadline_s = monotonic() + 5.0
    while len(reads) < 5 and monotonic() < deadline_s:
        sleep(0.001)
    sensor.close()
    assert sensor.history.mean_mhz(10.0, 10.5) == 485.0
    assert math.isnan(sensor.history.mean_mhz(13.0, 14.0))
    assert math.isnan(sensor.history.mean_mhz(100.0, 101.0))


def test_without_a_device_the_clock_is_what_the_actuator_says():
    time = ManualTime(5.0)
    clocks = iter([math.nan, 900.0])
    sensor = EchoSensor(
        lambda: ActuatorStatus(clock_mhz=next(clocks), target_mhz=0.0), 1410.0, time
    )
    assert sensor.read().clock_mhz == 1410.0
    time.advance(1.0)
    reading = sensor.read()
    assert (reading.clock_mhz, reading.at_s) == (900.0, 6.0)
    assert math.isnan(reading.power_w)


def test_a_device_that_stops_answering_has_no_known_clock():
    class Fails:
        closed = False

        def __init__(self):
            self.reads = 0

        def read(self):
            self.reads += 1
            if self.reads > 2:
                raise ActuatorError("gone")
            return Reading(at_s=1.0, clock_mhz=900.0, power_w=1.0, energy_j=1.0)

        def close(self):
            self.closed = True

    device = Fails()
    sensor = SampledSensor(device, ManualTime(), period_s=0.001)
    while device.reads < 5:
        pass
    assert math.isnan(sensor.read().clock_mhz)
    sensor.close()
    assert device.closed


def test_errors_are_compared_with_those_of_the_mean():
    tracker = ErrorTracker()
    for latency_s, predicted_s in ((1.0, 9.0), (3.0, 2.5), (2.0, math.inf), (4.0, 4.0)):
        tracker.add(latency_s, predicted_s)
    figures = tracker.figures()
    assert figures["labels"] == 4
    assert figures["mae_ms"] == pytest.approx(250.0)  # of 3.0 and 4.0; unknown is not scored
    assert figures["mean_predictor_mae_ms"] == pytest.approx((2.0 + 2.0) / 2 * 1e3)


def test_attainment_is_weighted_by_tokens():
    account = Account()
    assert math.isnan(account.attainment())
    account.finished(Load.decode(9, 10), 0.01, 0.01, kept=True)
    account.finished(Load.decode(1, 10), 0.09, 0.01, kept=False)
    account.finished(Load(), 5.0, 0.0, kept=False)
    assert account.attainment() == pytest.approx(0.9)
    assert account.iterations[Phase.DECODE] == 2
    assert account.latency_s(100) == 0.09


def taught():
    predictor = EcoPred()
    rng = np.random.default_rng(1)
    for _ in range(300):
        requests, kv = int(rng.integers(1, 60)), int(rng.integers(100, 20_000))
        load = Load.decode(requests, kv)
        latency_s = 0.004 + 2e-5 * requests + 1e-7 * kv
        predictor.learn(Outcome(load=load, clock_mhz=1410.0, latency_s=latency_s, ended_at_s=0.0))
    return predictor


def test_what_was_learned_survives_a_restart(tmp_path):
    predictor, path = taught(), tmp_path / "deep" / "d.predictor.json"
    assert save_predictor(predictor, path, STACK)
    assert load_profile(path).stack == STACK
    restored = restore_predictor(None, path, None, STACK)
    load, clocks = Load.decode(30, 9000), np.array([1410.0])
    assert restored.forecast(load, clocks).mean_s == pytest.approx(
        predictor.forecast(load, clocks).mean_s, rel=0.02
    )
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_nothing_learned_is_not_saved_and_a_damaged_file_is_left_aside(tmp_path):
    path = tmp_path / "d.predictor.json"
    assert not save_predictor(EcoPred(), path, STACK)
    assert restore_predictor(None, path, None, STACK) is None
    path.write_text("{")
    assert restore_predictor(None, path, None, STACK) is None


def test_tables_of_the_configuration_stand_above_what_was_saved(tmp_path):
    """voltana-v0.1 looks up what was profiled, whatever another policy learned before it."""
    saved, named = tmp_path / "d.predictor.json", tmp_path / "tables.json"
    save_predictor(taught(), saved, STACK)
    tables = TablePredictor(
        clocks_mhz=np.array([1005.0, 1410.0]), decode=np.full((2, 17, 3), [[[1e-5, 1e-7, 0.01]]])
    )
    save_tables(tables, STACK, named)
    found = restore_predictor(None, saved, named, STACK)
    assert isinstance(found, TablePredictor)
    assert not save_predictor(found, saved, STACK)
    context = InstanceContext(
        instance="decode-0",
        role=Role.DECODE,
        table_mhz=(705.0, 1005.0, 1410.0),
        slo=Slo(ttft_s=0.6, itl_s=0.065),
        predictor=found,
    )
    made = make_policy("voltana-v0.1", context)
    assert made.levels_mhz == (1005.0, 1410.0)
    assert made.predictor is found
    with pytest.raises(ConfigError, match=r"name a file of tables by policy\.profile"):
        make_policy("voltana-v0.1", dataclasses.replace(context, predictor=None))


def test_a_users_predictor_is_saved_and_restored_by_its_own_methods(tmp_path):
    class Own:
        def __init__(self, values):
            self.values = values

        def to_dict(self):
            return self.values

        def restore(self, values):
            if "bad" in values:
                raise ValueError("bad")
            self.values = values

    path = tmp_path / "own.json"
    assert save_predictor(Own({"a": 1}), path, STACK)
    assert json.loads(path.read_text()) == {"a": 1}
    assert restore_predictor(Own({}), path, None, STACK).values == {"a": 1}
    path.write_text('{"bad": 1}')
    assert restore_predictor(Own({"new": 2}), path, None, STACK).values == {"new": 2}
    assert not save_predictor(object(), path, STACK)
