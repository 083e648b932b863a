"""GPUs of which it is in doubt whether they are locked: lost meanwhile, or in others' hands."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.actuation.daemons import Daemon
from tests.actuation.driver import uuid_of
from tests.actuation.second_vendor import CardDriver, CardGpu, Rack
from tests.attack.clock_honesty import HonestLoop
from tests.attack.test_clocks_drivers import MHZ, STARVED_S, come_back, fall_off
from voltana_actuatord.daemon.gpulink import EXAMINE, decode_answer
from voltana_actuatord.daemon.holder import hold
from voltana_actuatord.daemon.inboxes import GpuJob
from voltana_actuatord.daemon.linkends import link as gpu_link
from voltana_actuatord.daemon.page import MAX_GPUS, ClockState, own_slot
from voltana_actuatord.daemon.readers import readable
from voltana_actuatord.faults import NotSupportedError
from voltana_actuatord.protocol import MAX_DEVICES, Acquire, encode_acquire
from voltana_actuatord.restoring import GpuRestoring
from voltana_actuatord.wishes import Terms


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


class SilentCard(CardGpu):
    """A board that gives no reasons, runs slower than it may while idle, and ignores resets."""

    idle_mhz: float | None = None
    ignores = False

    def event_reasons(self):
        raise NotSupportedError("no reasons.")

    def reset(self):
        if not SilentCard.ignores:
            super().reset()

    def clock_mhz(self):
        return SilentCard.idle_mhz or super().clock_mhz()


@pytest.mark.parametrize("idle_mhz", [500.0, 1e-9])
def test_a_slow_clock_without_a_word_why_proves_no_reset(idle_mhz):
    rack, slot = Rack(), own_slot()
    card = rack.cards[0]
    gpu, said = SilentCard(card, card.uuid), []
    restoring = GpuRestoring(
        gpu, said.append, journal=None, terms=None, slot=slot, clocks_mhz=gpu.clocks_mhz()
    )
    gpu.lock(1200.0, 1200.0)
    slot.state = ClockState.LOCKED
    slot.note_lock(1200.0)
    SilentCard.ignores, SilentCard.idle_mhz = True, idle_mhz
    restoring.restore()
    assert slot.state is ClockState.WATCHED
    SilentCard.ignores, SilentCard.idle_mhz = False, None  # it runs, as it was locked
    restoring.tend()
    assert card.lock_mhz is None
    restoring.tend()
    assert slot.state is ClockState.DEFAULT


class Alias(CardDriver):
    """A driver to which case means nothing."""

    gpu_class = CardGpu

    def gpu(self, name):
        return super().gpu(name.lower())


@pytest.mark.parametrize("name", ["card-7e00-ca5e", "CARD-7E00-CA5E"])
def test_one_gpu_under_two_names_has_no_two_owners(name):
    rack = Rack()
    life, parent = socket.socketpair()
    ours, theirs = gpu_link()
    job = GpuJob(
        uuid=name,
        slot=own_slot(),
        open_driver=lambda: Alias(rack),
        journal=None,
        terms=Terms(),
        life=life.fileno(),
    )
    thread = threading.Thread(target=hold, args=(job, theirs))
    thread.start()
    with closing(ours), closing(parent), closing(life):
        ours.ask(EXAMINE)
        assert readable([ours.fileno()], 10.0)
        found = decode_answer(name, ours.hear())
    thread.join(10.0)
    theirs.close()
    assert bool(found.clocks_mhz) == (name == rack.cards[0].uuid)
    assert found.clocks_mhz or "answers to CARD" in found.refusal


def test_names_that_lead_nowhere_leave_no_claim_behind(machine, daemon):
    """The kernel looks through every claim at each new one; a restart would forget them."""

    def claims():
        lines = Path("/proc/locks").read_text().splitlines()
        return sum(f" {daemon.process.pid} " in line for line in lines)

    with HonestLoop(daemon) as honest:
        ends_s, number = time.monotonic() + 12.0, 0
        while time.monotonic() < ends_s:
            number += 1
            with daemon.connect() as sock, contextlib.suppress(OSError):
                sock.settimeout(5.0)
                names = tuple(f"GPU-{number}-{i}" for i in range(MAX_DEVICES))
                sock.send(encode_acquire(Acquire("x", names, 1.0)))
                sock.recv(16_384)
            time.sleep(0.05)
        assert honest.lost == 0
    assert number > 20
    assert claims() <= MAX_GPUS + 2
    with daemon.client(0) as client:
        assert client.reach(MHZ)
