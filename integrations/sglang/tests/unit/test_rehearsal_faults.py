"""Faults in the middle of a rehearsal: each hits what it names, and everything comes back."""

from __future__ import annotations

import time
import urllib.request

import pytest
from rehearsed import director_of

from voltana.rehearsal import fake_driver
from voltana.rehearsal.faults import KINDS, Fault

pytestmark = pytest.mark.slow

FACTOR = 1.0
LOWER_MHZ = 1005


class Several:
    """All faults, one after the other, each with what it takes to be over."""

    at_s = 1.0

    def __init__(self):
        self.seconds = {}

    def __str__(self):
        return "several"

    def happen(self, stage, company):
        last = stage.devices["decode-1"][0]
        for kind in ("agent", "daemon", "router", "gpu", "engine"):
            started_s = time.monotonic()
            unlocked_s = stage.machine.unlocked_at_s(last)
            Fault(kind=kind, at_s=0.0).happen(stage, company)
            if kind in {"agent", "daemon"}:
                assert stage.machine.wait(
                    lambda before=unlocked_s: stage.machine.unlocked_at_s(last) > before, 20.0
                ), f"{kind}: nobody gave the clock back"
            if kind != "engine":  # whose agent has nothing to control any more
                assert stage.machine.wait(
                    lambda: stage.machine.locked_mhz(last) == LOWER_MHZ, 20.0
                ), f"{kind}: {last} is not locked again"
            if kind == "router":
                wait_for_health(company.url)
            self.seconds[kind] = time.monotonic() - started_s


def wait_for_health(url):
    ends_s = time.monotonic() + 20.0
    while time.monotonic() < ends_s:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1.0):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the router is not back")


def test_every_fault_hits_and_what_it_hit_comes_back(tmp_path):
    if fake_driver.compiler() is None:
        pytest.skip("no C compiler to build the fake driver with (install gcc)")
    director = director_of(tmp_path, ["static-low"], decode=2, duration_s=4.0, factor=FACTOR)
    faults = Several()
    evidence = director.rehearsed("static-low", fake_driver.built(), 8.0, faults)
    assert set(faults.seconds) == set(KINDS)
    assert faults.seconds["gpu"] > 4.9
    default = [r for r in evidence.readings if 1410.0 in r.clock_mhz and r.at_s > evidence.start_s]
    assert default
    errors = [one.error for one in evidence.replayed.told]
    assert errors.count("") > 0
    log = (director.folder / "static-low+several" / "logs" / "launch.log").read_text()
    for name in ("agent-decode-1", "router", "decode-1"):
        assert f"{name} ended by itself" in log.replace("  ", " "), log
