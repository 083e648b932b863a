"""What a slot says and what its mark says, at every moment at which a process may be killed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.actuation.daemons import Daemon
from tests.actuation.second_vendor import Rack
from voltana_actuatord.daemon.journal import Journal
from voltana_actuatord.daemon.page import WORDS, ClockState, Slot
from voltana_actuatord.driving import GpuDriving
from voltana_actuatord.wishes import Terms, Wish


class ReadSlot(Slot):
    """A slot whose reader ends the process as soon as it says that nothing is locked."""

    def __init__(self, journal):
        words = memoryview(bytearray(8 * WORDS)).cast("q")
        super().__init__(words, words)
        self.journal = journal
        self.found = []

    @property
    def state(self):
        return super().state

    @state.setter
    def state(self, state):
        left = self.journal.marked()
        if state is ClockState.DEFAULT:
            left += self.journal.watched()
        self.found.append((state, left))
        Slot.state.fset(self, state)


@pytest.mark.parametrize("baseline_mhz", [None, 900.0])
@pytest.mark.parametrize("privileged", [True, False])
def test_a_slot_that_is_at_rest_has_no_mark(baseline_mhz, privileged, tmp_path):
    rack, journal = Rack(), Journal(tmp_path)
    gpu = rack.open().gpu(0)
    slot = ReadSlot(journal)
    terms = Terms(baseline_mhz=baseline_mhz)
    driving = GpuDriving(gpu, _Nobody(), lambda _: None, journal=journal, terms=terms, slot=slot)
    gpu.card.privileged = privileged
    driving.obey(Wish(700.0, 1))
    driving.obey(Wish(None, 2))
    driving.tend()
    at_rest = [left for state, left in slot.found if not state.marked]
    assert at_rest
    assert not any(at_rest)


def test_a_reset_that_is_watched_keeps_its_mark_until_it_is_not(tmp_path, monkeypatch):
    from voltana_actuatord import restoring
    from voltana_actuatord.daemon.restore import Evidence

    journal = Journal(tmp_path)
    slot = ReadSlot(journal)
    gpu = Rack().open().gpu(0)
    monkeypatch.setattr(restoring, "reset_and_weigh", lambda *_, **__: Evidence.OPEN)
    driving = GpuDriving(gpu, _Nobody(), lambda _: None, journal=journal, slot=slot)
    driving.obey(Wish(700.0, 1))
    driving.obey(Wish(None, 2))
    assert slot.state is ClockState.WATCHED
    assert journal.watched()
    gpu.reset()
    driving.tend()
    assert slot.found[-1] == (ClockState.DEFAULT, ())


class _Nobody:
    """An inbox in which nothing comes."""

    def waiting(self, seconds):
        return False

    def take(self):
        return None


@pytest.mark.parametrize("after_ms", [0, 3, 8, 15])
def test_a_stop_while_clocks_are_being_set_leaves_no_mark(after_ms, machine, tmp_path):
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    clients = [daemon.client(device) for device in range(machine.devices)]
    for client in clients:
        client.set(1005.0)
    time.sleep(1e-3 * after_ms)
    os.kill(daemon.process.pid, signal.SIGTERM)
    status = daemon.stop()
    for client in clients:
        client.actuator.close()
    assert status == 0
    assert not list(daemon.journal.iterdir())
    assert not machine.any_locked()
