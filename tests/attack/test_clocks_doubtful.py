"""GPUs of which it is in doubt whether they are locked: lost meanwhile, or in others' hands."""

from __future__ import annotations

import os
import signal

import pytest

from tests.actuation.daemons import Daemon
from tests.actuation.driver import uuid_of
from tests.attack.clock_honesty import HonestLoop
from tests.attack.test_clocks_drivers import MHZ, STARVED_S, come_back, fall_off


def leave_in_doubt(machine, daemon, who):
    """A lock on GPU 0 whose resets are ignored, in the hands of its process or of a restorer."""
    before = set(daemon.holders())
    client = daemon.client(0, lease_s=0.5)
    assert client.reach(MHZ)
    (holder,) = set(daemon.holders()) - before
    machine.fault(0, "F_RESET", "K_SILENT")
    if who == "restorer":
        os.kill(holder, signal.SIGKILL)
    client.actuator.close()


@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("who", ["holder", "restorer"])
def test_a_gpu_that_falls_off_in_doubt_is_unlocked_through_a_new_handle(
    who, busy, make_machine, tmp_path
):
    """Whoever looks after it has a handle that stays lost for ever."""
    machine = make_machine(D_IDLE_HIDES=1)
    with Daemon(tmp_path, machine) as daemon, HonestLoop(daemon) as honest:
        leave_in_doubt(machine, daemon, who)
        machine.set(0, "D_BUSY", int(busy))
        calls = machine.get(0, "D_RESET_CALLS")
        watched = daemon.journal / f"{uuid_of(0)}.watched"
        assert machine.wait(
            lambda: machine.get(0, "D_RESET_CALLS") > calls + 20 if busy else watched.exists()
        ), daemon.log.read_text()
        fall_off(machine, 0)
        machine.wait(lambda: False, 0.7)
        machine.clear_faults()
        come_back(machine, 0)
        machine.set(0, "D_BUSY", 1)
        assert machine.wait(lambda: not machine.locked_mhz(0), 1.0 + STARVED_S), (
            daemon.log.read_text()
        )
        assert honest.times_s(0.2)
        assert honest.lost == 0
    assert not list(daemon.journal.glob("*.locked"))


@pytest.mark.parametrize("who", ["holder", "restorer"])
def test_resets_that_are_ignored_refuse_no_lease_whoever_sends_them(who, machine, daemon):
    leave_in_doubt(machine, daemon, who)
    with daemon.client(0, patience_s=4.0) as again:
        assert again.reach(1200.0)
