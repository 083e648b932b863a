from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.actuators import DryRun, RecordingActuator
from voltana.cluster.candidates import InstanceFacts
from voltana.cluster.exposures import Exposures
from voltana.cluster.renewed import SNAPSHOT_S
from voltana.predictors.linear_power import LinearPower
from voltana.serving.agent.energy import WINDOW_S, EnergyAccount
from voltana.serving.agent.instance_clock import InstanceClock
from voltana.serving.agent.publishing import Publishing
from voltana.testing import check_actuator
from voltana.timebase import ManualTime, MonotonicTime
from voltana.values import Domain, Exposure, InstanceState, Load, Reading

TABLE = tuple(map(float, range(600, 1411, 15)))


class Board:
    """A board of steady power that counts energy."""

    def __init__(self, time, power_w=300.0):
        self.time = time
        self.power_w = power_w

    def read(self):
        now_s = self.time.now_s()
        return Reading(
            at_s=now_s, clock_mhz=900.0, power_w=self.power_w, energy_j=self.power_w * now_s
        )


class Loops:
    """What energy and publishing ask of a group."""

    attached = True

    def __init__(self):
        self.exposures = Exposures()
        self.windows = []
        self.model = LinearPower(max_clock_mhz=1410.0, max_power_w=400.0)
        self.frozen = 0

    def take_exposures(self, now_s, clock_mhz):
        self.exposures.idle_until(now_s, clock_mhz)
        return self.exposures.take()

    def power(self):
        return self.model

    def levels_mhz(self):
        return TABLE

    def learn_energy(self, energy_j, exposures):
        self.windows.append((energy_j, exposures))
        self.model.learn_window(energy_j, exposures)

    def facts(self):
        self.frozen += 1
        return InstanceFacts(budget_s=0.1)

    def state(self):
        return InstanceState(running_requests=3, clock_mhz=900.0)

    def idle(self):
        return self.resting

    def sampled_s(self):
        return 0.0

    def take_rooms(self):
        return [7]

    def names_waiting(self):
        return True


def run(loops, time, seconds, *, clock_mhz=900.0):
    """A decode batch for as long."""
    loops.exposures.idle_until(time.now_s(), 900.0)
    loops.exposures.add(Load.decode(8, 100), clock_mhz, seconds)


def test_windows_hold_what_ran_and_the_idle_rest():
    time, loops = ManualTime(), Loops()
    account = EnergyAccount(Board(time), loops)
    run(loops, time, 4.0)
    for _ in range(int(WINDOW_S / 0.2) + 2):
        time.advance(0.2)
        account.tick()
    ((energy_j, exposures),) = loops.windows
    duration_s = sum(exposure.duration_s for exposure in exposures)
    assert energy_j == pytest.approx(300.0 * duration_s, rel=0.01)
    assert [exposure.load.decode_requests for exposure in exposures] == [8, 0]
    assert exposures[0].duration_s == 4.0
    assert account.total_j == pytest.approx(energy_j)
    assert 0.0 < account.saving() < 1.0  # 900 MHz against 1410 MHz


def test_a_window_that_is_not_covered_teaches_nothing():
    """An engine that came in mid-window: the energy before it belongs to nothing that ran."""
    time, loops = ManualTime(), Loops()
    account = EnergyAccount(Board(time), loops)
    loops.exposures = Exposures(start_s=0.5 * WINDOW_S)
    for _ in range(2 * int(WINDOW_S / 0.2) + 4):
        time.advance(0.2)
        account.tick()
    ((energy_j, exposures),) = loops.windows
    assert energy_j == pytest.approx(300.0 * sum(e.duration_s for e in exposures), rel=0.01)
    assert account.total_j > 1.9 * energy_j  # of both windows


def test_without_power_readings_nothing_is_claimed():
    time, loops = ManualTime(), Loops()
    account = EnergyAccount(Board(time, math.nan), loops)
    run(loops, time, 4.0)
    time.advance(20.0)
    account.tick()
    assert loops.exposures.seconds == 0.0  # it does not pile up
    assert math.isnan(account.total_j)
    assert math.isnan(account.saving())
    assert loops.windows == []


def test_what_ran_while_the_board_could_not_be_read_belongs_to_no_later_window():
    time, loops = ManualTime(), Loops()
    board = Board(time)
    account = EnergyAccount(board, loops)

    def window():
        for _ in range(int(WINDOW_S / 0.2) + 1):
            run(loops, time, 0.1)
            time.advance(0.2)
            account.tick()

    board.power_w = math.nan
    for _ in range(5):
        window()
    assert loops.exposures.seconds < 2 * WINDOW_S  # it does not pile up
    board.power_w = 300.0
    for _ in range(3):
        window()
    assert loops.windows
    for energy_j, exposures in loops.windows:
        duration_s = sum(exposure.duration_s for exposure in exposures)
        assert energy_j == pytest.approx(300.0 * duration_s, rel=0.1)


class Spent:
    """An account of energy."""

    total_j = 12.0


class Feed:
    def __init__(self):
        self.sent = []

    def publish(self, state, **fields):
        self.sent.append((state, fields))

    def take_intended(self):
        return None  # no router says anything


def test_a_state_is_as_old_as_its_record_but_idling_is_known():
    time, loops, feed = ManualTime(5.0), Loops(), Feed()
    loops.resting = True
    publishing = Publishing(feed, loops, Spent(), time)
    publishing.publish(heartbeat=False)
    publishing.publish(heartbeat=True)
    assert [fields["age_s"] for _, fields in feed.sent] == [5.0, 0.0]
    loops.resting = False
    publishing.publish(heartbeat=True)
    assert feed.sent[-1][1]["age_s"] == 5.0
    assert feed.sent[-1][1]["rooms"] == [7]
    assert feed.sent[-1][1]["names_waiting"] is True
    assert feed.sent[-1][1]["energy_j"] == 12.0


def test_models_are_frozen_now_and_then_only():
    time, loops, feed = ManualTime(), Loops(), Feed()
    loops.resting = False
    publishing = Publishing(feed, loops, Spent(), time)
    for _ in range(100):
        publishing.publish(heartbeat=False)
        time.advance(SNAPSHOT_S / 20)
    assert 5 <= loops.frozen <= 6
    loops.attached = False
    publishing.publish(heartbeat=True)
    assert len(feed.sent) == 100


class Alone:
    """The only loop of an instance, which ends with its clock."""

    def __init__(self, clock):
        member = clock.member("alone")
        self.table, self.apply, self.status = member.table, member.apply, member.status
        self.close = clock.close


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_switch_keeps_the_contract_of_an_actuator(dry_run):
    def open_device(dry):
        device = RecordingActuator(TABLE, time=MonotonicTime())
        return DryRun(device) if dry else device

    def make():
        clock = InstanceClock(open_device, Domain(name="d"), MonotonicTime(), dry_run=dry_run)
        return Alone(clock)

    options = {"tolerance_mhz": math.inf} if dry_run else {}
    # The clock numbers the steps of all loops anew; a loop's own are always in order.
    check_actuator(make, skip=["stale_commands_are_ignored"], **options).raise_if_failed()


@given(share=st.floats(0.45, 1.0))
def test_the_estimated_saving_is_that_of_the_power_model(share):
    time, loops = ManualTime(), Loops()
    clock_mhz = share * 1410.0
    account = EnergyAccount(Board(time), loops)
    load = Load.decode(16, 1000)
    chosen_w, fastest_w = loops.model.forecast_w(load, np.array([clock_mhz, 1410.0]))
    account._estimate([_exposure(load, clock_mhz)])
    assert account.saving() == pytest.approx(1 - chosen_w / fastest_w)


def _exposure(load, clock_mhz):
    return Exposure(load=load, clock_mhz=clock_mhz, duration_s=2.0)
