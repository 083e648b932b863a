"""`check_actuator`, the suite that every actuator passes, on those that need the driver.

The simulated and the recording actuator, and the dry run, are held to the same suite in
tests/conformance.
"""

from __future__ import annotations

import pytest

from tests.actuation.driver import build_smi
from voltana.testing import check_actuator
from voltana.values import Domain
from voltana_actuatord.client import ActuatorProcess

CHECKED_AGAINST_THE_DRIVER = {
    "ActuatorProcess",
    "LocalActuator",
    "NvidiaSmiActuator",
    "NvmlActuator",
    "PowerCapActuator",
}

IN_PROCESS = """
from voltana.testing import check_actuator
from voltana.values import Domain
from voltana.actuators import {name}
domain = Domain(name="check", devices={devices})
report = check_actuator(lambda: {name}(domain{more}), domain=domain, **{options})
answer = [report.passed, str(report)]
"""


@pytest.mark.parametrize(
    ("name", "devices"),
    [("NvmlActuator", (0,)), ("NvmlActuator", (0, 1)), ("PowerCapActuator", (0,))],
)
def test_in_process(name, devices, machine, in_process):
    code = IN_PROCESS.format(name=name, devices=devices, more="", options={})
    passed, report = in_process(code)
    assert passed, report
    assert not machine.any_locked()
    assert machine.get(0, "D_CAP_MW") == 400_000


def test_nvidia_smi(machine, in_process, tmp_path, library):
    more = f", program={str(build_smi(tmp_path, library))!r}"
    code = IN_PROCESS.format(name="NvidiaSmiActuator", devices=(0,), more=more, options={})
    passed, report = in_process(code)
    assert passed, report
    assert not machine.any_locked()


@pytest.mark.parametrize("devices", [(0,), (0, 1)])
def test_daemon(devices, machine, daemon):
    domain = Domain(name="check", devices=devices)
    report = check_actuator(
        lambda: ActuatorProcess(domain, socket_path=daemon.socket, lease_s=10.0),
        domain=domain,
        default_mhz=1410.0,
    )
    report.raise_if_failed()
    assert machine.wait(lambda: not machine.any_locked())
