"""A real control loop on the daemon, and what the documentation shows."""

from __future__ import annotations

import re
import time
import tomllib
from pathlib import Path

from tests.actuation.driver import uuid_of
from voltana.actuators import ActuatorProcess
from voltana.loop import ControlLoop
from voltana.timebase import MonotonicTime
from voltana.values import Decision, Domain, Health, Load, Reading
from voltana_actuatord.daemon.settings import DaemonSettings

ROOT = Path(__file__).parents[2]
DOMAIN = Domain(name="decode-0", devices=(uuid_of(0), uuid_of(1)))


class Fixed:
    """A controller that always wants one clock."""

    def __init__(self, clock_mhz):
        self.clock_mhz = clock_mhz

    def decide(self, observation):
        return Decision(clock_mhz=self.clock_mhz, reason="fixed")


class Achieved:
    """A sensor on top of the actuator's acknowledgements."""

    def __init__(self, actuator):
        self.actuator = actuator

    def read(self):
        now_s = time.monotonic()
        clock_mhz = self.actuator.status().clock_mhz
        return Reading(at_s=now_s, clock_mhz=clock_mhz, power_w=300.0, energy_j=0.0)


def test_idle_ticks_of_the_loop_hold_the_lease_and_a_hung_loop_loses_it(machine, daemon):
    actuator = ActuatorProcess(DOMAIN, socket_path=daemon.socket, lease_s=1.0)
    loop = ControlLoop(
        instance="decode-0",
        domain=DOMAIN,
        controller=Fixed(1005.0),
        actuator=actuator,
        sensor=Achieved(actuator),
        time=MonotonicTime(),
        levels_mhz=(1005.0, 1410.0),
        lease_s=actuator.lease_s,
    )
    ends_s = time.monotonic() + 2.5
    while time.monotonic() < ends_s:
        loop.decide(Load())
        time.sleep(0.2)  # the idle tick
    assert machine.locked_mhz(1) == 1005
    assert actuator.status().health is Health.OK
    assert machine.get(0, "D_SET_CALLS") <= 2  # a loaded machine may miss one lease
    hung_s = time.monotonic()
    assert machine.wait(lambda: not machine.any_locked())
    assert machine.unlocked_at_s() - hung_s < 1.0 + 1.5
    loop.close()


def test_the_example_in_the_documentation_runs(machine, daemon):
    text = (ROOT / "docs" / "actuation.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    own = f"({uuid_of(0)!r}, {uuid_of(1)!r})"  # this process has not loaded the fake driver
    assert "gpu_uuids((0, 1))" in code
    code = code.replace("gpu_uuids((0, 1))", own)
    code = code.replace("(domain)  #", f"(domain, socket_path={str(daemon.socket)!r})  #")
    names = {}
    exec(compile(code, "docs/actuation.md", "exec"), names)
    assert len(names["actuator"].table()) == 81
    assert machine.wait(lambda: not machine.any_locked())


def test_the_shipped_configuration_is_valid():
    text = (ROOT / "packaging" / "systemd" / "actuatord.toml").read_text()
    settings = DaemonSettings.model_validate(tomllib.loads(text))
    assert settings.allow[0].groups == ("voltana",)


def test_the_documentation_names_every_key_of_the_configuration():
    text = (ROOT / "docs" / "actuation.md").read_text()
    allow = DaemonSettings.model_fields["allow"].annotation
    keys = set(DaemonSettings.model_fields) | set(allow.__args__[0].model_fields)
    assert [
        key for key in sorted(keys) if f"`{key}`" not in text and f"[[{key}]]" not in text
    ] == []
