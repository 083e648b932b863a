"""One suite for every vendor's driver, itself tested on drivers that are broken."""

from __future__ import annotations

import time

import pytest

from tests.actuation.second_vendor import CardDriver, CardGpu, Rack
from voltana.testing import check_driver
from voltana_actuatord.faults import (
    DriverError,
)


@pytest.fixture
def rack():
    return Rack()


def test_nvml_over_the_fake_library(machine, in_process):
    passed, report = in_process(
        "from voltana.testing import check_driver\n"
        "from voltana_actuatord.drivers.nvml import NvmlDriver\n"
        "report = check_driver(NvmlDriver)\n"
        "answer = [report.passed and 'not applicable' not in str(report), str(report)]"
    )
    assert passed, report
    assert not machine.any_locked()
    assert machine.get(0, "D_CAP_MW") == 400_000


def test_a_second_vendor(rack):
    report = check_driver(rack.open)
    report.raise_if_failed()
    assert "not applicable" not in str(report)
    assert rack.cards[0].lock_mhz is None


def test_without_privilege_it_is_read_and_not_set(rack):
    rack.cards[0].privileged = False
    report = check_driver(rack.open)
    report.raise_if_failed()
    assert str(report).count("lacks the privilege") == 5


class Defect(CardGpu):
    """A card with a driver that was written carelessly."""


def _gpu(**methods):
    return type("Broken", (Defect,), methods)


BROKEN_GPUS = {
    "has_the_methods_of_the_port": _gpu(in_force_mhz=None),
    "every_kind_of_fault_has_a_remedy": _gpu(remedy=lambda *_: ""),
    "table_is_ascending": _gpu(clocks_mhz=lambda *_: (900.0, 500.0, 2100.0)),
    "readings_are_sane": _gpu(power_w=lambda *_: 380_000.0),
    "energy_never_falls": _gpu(energy_j=lambda *_: -time.monotonic()),
    "lock_holds_the_clock": _gpu(lock=lambda *_: None),
    "reset_gives_the_default_back": _gpu(reset=lambda *_: None),
    "refuses_clocks_outside_the_table": _gpu(
        lock=lambda self, low, _high: setattr(self.card, "lock_mhz", min(round(low), 2100))
    ),
    "power_limits_are_set_within_their_range": _gpu(set_power_limit=lambda *_: None),
}


class ByPlace(CardDriver):
    """Takes a UUID for a place."""

    def gpu(self, name):
        return super().gpu(0 if isinstance(name, str) else name)


class Generous(CardDriver):
    """Has a card for every index."""

    def gpu(self, name):
        return super().gpu(name % self.count() if isinstance(name, int) else name)


class Resetting(CardDriver):
    """Gives clocks back when it is closed."""

    def close(self):
        for card in self.rack.cards:
            card.lock_mhz = None


class Shared(CardDriver):
    """Takes the driver from everybody when one closes it."""

    def close(self):
        self.rack.cards = []


class Once(CardDriver):
    """May not be closed twice."""

    closed = False

    def close(self):
        if self.closed:
            raise DriverError("closed already.")
        self.closed = True


BROKEN_DRIVERS = {
    "a_uuid_leads_to_the_gpu_that_an_index_led_to": ByPlace,
    "names_that_lead_nowhere_are_refused": Generous,
    "a_lock_outlives_the_driver": Resetting,
    "one_process_may_open_it_twice": Shared,
    "close_may_be_called_twice": Once,
}


@pytest.mark.parametrize("check", [*BROKEN_GPUS, *BROKEN_DRIVERS])
def test_the_suite_finds_what_is_broken(check, rack):
    def broken():
        driver = BROKEN_DRIVERS.get(check, CardDriver)(rack)
        if check in BROKEN_GPUS:
            driver.gpu_class = BROKEN_GPUS[check]
        return driver

    failures = {failure.name: failure for failure in check_driver(broken, timeout_s=0.05).failures}
    assert check in failures
    assert "remedy:" in failures[check].detail


def test_every_check_of_the_suite_has_a_broken_driver():
    from voltana.testing.driver import DRIVER_CHECKS

    assert {check.__name__ for check in DRIVER_CHECKS} == BROKEN_GPUS.keys() | BROKEN_DRIVERS.keys()
