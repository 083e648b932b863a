"""Who stands on the driver port alone, shown on a second vendor's cards; finding a driver."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.actuation import second_vendor
from tests.actuation.second_vendor import CardDriver, CardGpu, Rack
from voltana.actuators import EnergyMeter, GpuSensor, InProcessActuator, PowerCapActuator
from voltana.testing import check_actuator
from voltana.timebase import MonotonicTime
from voltana.values import Domain
from voltana_actuatord.client import ActuatorProcess
from voltana_actuatord.daemon.holder import hold, restore
from voltana_actuatord.daemon.inboxes import GpuJob
from voltana_actuatord.daemon.journal import Journal
from voltana_actuatord.daemon.linkends import link as gpu_link
from voltana_actuatord.daemon.page import ClockState, own_slot
from voltana_actuatord.daemon.parentlink import ParentLink, say
from voltana_actuatord.daemon.server import ActuatorServer
from voltana_actuatord.doctor import Verdict, examine
from voltana_actuatord.drivers.opening import DRIVER_VARIABLE, find_driver, gpu_clock_table
from voltana_actuatord.errors import ConfigError
from voltana_actuatord.faults import (
    DriverError,
    LeaseRefusedError,
    NotSupportedError,
    PartitionedGpuError,
)
from voltana_actuatord.gpu_names import gpu_uuids
from voltana_actuatord.wishes import Terms


@pytest.fixture
def rack():
    return Rack()


def raising(kind):
    def method(*_):
        raise kind("no.")

    return method


# --- who stands on the port


def test_the_in_process_actuator_and_the_power_cap(rack):
    domain = Domain(name="check", devices=tuple(card.uuid for card in rack.cards))
    for kind in (InProcessActuator, PowerCapActuator):
        report = check_actuator(
            lambda kind=kind: kind(domain, open_driver=rack.open), domain=domain
        )
        report.raise_if_failed()
    assert [(card.lock_mhz, card.cap_w) for card in rack.cards] == [(None, 750), (None, 750)]


def test_metering(rack):
    domain = Domain(name="check", devices=(rack.cards[1].uuid,))
    meter = EnergyMeter(GpuSensor(domain, MonotonicTime(), open_driver=rack.open), window_s=1.0)
    window = None
    while window is None:
        time.sleep(0.05)
        window = meter.sample()
    assert window.mean_w == pytest.approx(second_vendor.FULL_W, rel=0.1)
    assert window.agree


def test_a_board_without_a_counter_is_metered_by_power(rack):
    class Meterless(CardGpu):
        energy_j = raising(NotSupportedError)

    def open_driver():
        driver = CardDriver(rack)
        driver.gpu_class = Meterless
        return driver

    domain = Domain(name="check", devices=(rack.cards[0].uuid,))
    reading = GpuSensor(domain, MonotonicTime(), open_driver=open_driver).read()
    assert math.isnan(reading.energy_j)
    assert reading.power_w == second_vendor.FULL_W


def test_the_doctor(rack, tmp_path):
    rack.cards[1].partitions = 8
    findings = list(examine(None, str(tmp_path / "none.sock"), rack.open))
    texts = [finding.text for finding in findings]
    assert "cards 1.0" in texts[0]
    assert any("17 clocks of 500-2100 MHz" in text for text in texts)
    (split,) = [finding for finding in findings if "partitions" in finding.text]
    assert split.verdict is Verdict.MISSING
    assert "cardctl explain PartitionedGpuError" in split.text
    assert not any("nvidia" in text.lower() for text in texts)


def test_marked_gpus_are_restored_and_a_missing_one_stays_marked(rack, tmp_path):
    card = rack.cards[1]
    journal = Journal(tmp_path)
    journal.mark(card.uuid, had_setting=False, clock_mhz=700.0)
    journal.mark("card-7e99-gone", had_setting=False)
    card.lock_mhz = 700
    parent, life = socket.socketpair()
    for uuid in (card.uuid, "card-7e99-gone"):
        slot = own_slot()
        slot.state = ClockState.RESTORING
        job = GpuJob(
            uuid=uuid,
            slot=slot,
            open_driver=rack.open,
            journal=journal,
            terms=Terms(),
            life=life.fileno(),
        )
        thread = threading.Thread(target=restore, args=(job,))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive() == (uuid != card.uuid)
    parent.close()  # it is gone: nobody waits for ever
    thread.join(5.0)
    life.close()
    assert not thread.is_alive()
    assert card.lock_mhz is None
    assert journal.marked() == ("card-7e99-gone",)


def stand_for_the_parent(link, rack, journal):
    """Starts what would be processes of GPUs as threads."""
    life, life_end = socket.socketpair()
    holders = []
    while data := link.recv(1024):
        if not data.startswith(b"open "):
            continue
        uuid = data[5:].decode()
        ours, theirs = gpu_link()
        job = GpuJob(
            uuid=uuid,
            slot=own_slot(),
            open_driver=rack.open,
            journal=journal,
            terms=Terms(),
            life=life.fileno(),
        )
        holders.append((threading.Thread(target=hold, args=(job, theirs)), theirs))
        holders[-1][0].start()
        with closing(ours):
            say(link, uuid, "open", ours)
    for thread, sock in holders:
        thread.join(10)
        sock.close()
    life_end.close()
    life.close()


@pytest.fixture
def serve(rack, tmp_path):
    """A daemon's worker, in a thread, on the second vendor's cards."""
    path = tmp_path / "actuator.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    rule = {
        "uids": [os.geteuid()],
        "gids": [],
        "gpus": [card.uuid for card in rack.cards],
        "min_mhz": 0.0,
        "max_mhz": 1e6,
        "max_lease_s": 10.0,
    }
    config = {"max_connections": 16, "idle_s": 30.0, "restoring": [], "rules": [rule]}
    server = ActuatorServer(config, listener, ParentLink(theirs))
    threads = [
        threading.Thread(target=server.serve),
        threading.Thread(target=stand_for_the_parent, args=(ours, rack, Journal(tmp_path / "j"))),
    ]
    for thread in threads:
        thread.start()
    yield path
    server.stop()
    threads[0].join(10)
    theirs.close()
    threads[1].join(10)
    assert not any(thread.is_alive() for thread in threads)
    for sock in (listener, ours, theirs):
        sock.close()


def test_the_daemon(rack, serve):
    domain = Domain(name="check", devices=(rack.cards[1].uuid,))
    report = check_actuator(
        lambda: ActuatorProcess(domain, socket_path=serve, lease_s=10.0),
        domain=domain,
        default_mhz=2100.0,
    )
    report.raise_if_failed()
    assert rack.cards[1].locks
    assert not rack.cards[0].locks


def test_the_daemon_refuses_a_card_that_is_split(rack, serve):
    rack.cards[0].partitions = 2
    domain = Domain(name="check", devices=(rack.cards[0].uuid,))
    with pytest.raises(LeaseRefusedError, match="cardctl explain PartitionedGpuError"):
        ActuatorProcess(domain, socket_path=serve)


# --- finding a driver, naming a GPU


def test_the_variable_names_another_driver(rack, monkeypatch):
    monkeypatch.setattr(second_vendor, "here", rack.open, raising=False)
    monkeypatch.setenv(DRIVER_VARIABLE, "tests.actuation.second_vendor:here")
    assert gpu_clock_table(1)[-1] == 2100.0
    assert gpu_uuids((1,)) == (rack.cards[1].uuid,)


@pytest.mark.parametrize("name", ["", "nvml2", "no.such:Driver", "os:nothing"])
def test_a_driver_that_does_not_exist_is_named(name):
    with pytest.raises(ConfigError, match="'nvml' or MODULE:FACTORY"):
        find_driver(name)


def test_indices_are_translated_and_uuids_are_not(rack):
    first, second = (card.uuid for card in rack.cards)
    assert gpu_uuids((1, first), rack.open) == (second, first)
    assert gpu_uuids((second,), raising(AssertionError)) == (second,)
    with pytest.raises(ConfigError, match="Name each once"):
        gpu_uuids((0, first), rack.open)
    with pytest.raises(DriverError, match="Or give UUIDs"):
        gpu_uuids((2,), rack.open)


def test_domains_take_uuids_only(tmp_path):
    for devices, says in (
        ((), "one GPU or more"),
        (("0",), "name the GPU by its UUID"),
        (("MIG-1-2",), "disable MIG"),
    ):
        with pytest.raises(ConfigError, match=says):
            ActuatorProcess(Domain(name="d", devices=devices), socket_path=tmp_path / "none")


def test_the_port_is_small():
    """The facets of a GPU have four members each at most, and a driver four."""
    from voltana_actuatord.drivers import port

    for facet in (port.GpuIdentity, port.GpuClock, port.GpuState, port.GpuMeter, port.GpuPower):
        own = [name for name in vars(facet) if not name.startswith("_")]
        assert len(own) + len(facet.__annotations__) <= 4, facet
    assert len([name for name in vars(port.GpuDriver) if not name.startswith("_")]) == 4


def test_a_split_gpu_is_refused_in_this_process(rack):
    rack.cards[0].partitions = 2
    with pytest.raises(PartitionedGpuError, match="split into partitions"):
        InProcessActuator(Domain(name="d", devices=(rack.cards[0].uuid,)), open_driver=rack.open)


def test_only_what_is_of_the_vendor_names_it():
    """One place opens drivers; the actuator that runs nvidia-smi is NVIDIA's own."""
    root = Path(__file__).parents[2]
    named = {
        path.relative_to(root).name
        for folder in ("voltana", "packages/actuatord", "integrations/sglang/voltana_sglang")
        for path in (root / folder).rglob("*.py")
        if "drivers.nvml" in path.read_text()
    }
    assert named == {"nvidia_smi.py", "nvml.py", "opening.py"}
