"""The recording actuator and the dry run, held to the contract that real devices are held to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from voltana.actuators import DryRun, RecordingActuator
from voltana.errors import ActuatorError, ConfigError
from voltana.testing.actuator import check_actuator
from voltana.timebase import ManualTime
from voltana.values import Command, Domain, Health

if TYPE_CHECKING:
    from voltana.ports import Actuator

TABLE_MHZ = (210.0, 1005.0, 1410.0)
DOMAIN = Domain(name="gpu0")


def command(clock_mhz: float, sequence: int, lease_s: float = 2.0) -> Command:
    return Command(domain=DOMAIN, clock_mhz=clock_mhz, sequence=sequence, lease_s=lease_s)


@pytest.mark.parametrize("settle_s", [0.0, 0.05])
@pytest.mark.parametrize("default_mhz", [None, 1005.0])
def test_the_recording_actuator_keeps_the_contract(
    settle_s: float, default_mhz: float | None
) -> None:
    time = ManualTime()

    def make() -> Actuator:
        return RecordingActuator(TABLE_MHZ, time=time, default_mhz=default_mhz, settle_s=settle_s)

    check_actuator(make, settle=lambda _: time.advance(0.1)).raise_if_failed()


def test_the_dry_run_keeps_the_contract_but_for_the_clock() -> None:
    time = ManualTime()
    check_actuator(
        lambda: DryRun(RecordingActuator(TABLE_MHZ, time=time)),
        settle=lambda _: time.advance(0.1),
        skip=["apply_reaches_the_clock"],
    ).raise_if_failed()


def test_a_clock_is_in_force_only_after_settling() -> None:
    time = ManualTime()
    actuator = RecordingActuator(TABLE_MHZ, time=time, settle_s=0.05)
    actuator.apply(command(210.0, 0))
    assert actuator.status().clock_mhz == 1410
    time.advance(0.05)
    assert actuator.status().clock_mhz == 210
    actuator.apply(command(1005.0, 1))
    assert actuator.status().clock_mhz == 210
    assert actuator.status().target_mhz == 1005


def test_a_lease_that_runs_out_brings_the_default_back() -> None:
    time = ManualTime()
    actuator = RecordingActuator(TABLE_MHZ, time=time, default_mhz=1005.0)
    actuator.apply(command(210.0, 0, lease_s=2.0))
    time.advance(1.9)
    actuator.apply(command(210.0, 1, lease_s=2.0))
    time.advance(1.9)
    assert actuator.status().clock_mhz == 210
    assert actuator.status().health is Health.OK
    time.advance(0.2)
    status = actuator.status()
    assert (status.clock_mhz, status.target_mhz, status.health) == (1005, 210, Health.DEGRADED)
    assert status.error == "the lease of 2 s ran out; the default is back"
    actuator.apply(command(210.0, 2))
    assert actuator.status().clock_mhz == 210


@given(
    commands=st.lists(st.tuples(st.sampled_from(TABLE_MHZ), st.integers(0, 20)), max_size=30),
)
def test_the_record_holds_the_commands_that_raised_the_sequence(
    commands: list[tuple[float, int]],
) -> None:
    actuator = RecordingActuator(TABLE_MHZ, time=ManualTime())
    expected: list[tuple[float, int]] = []
    for clock_mhz, sequence in commands:
        actuator.apply(command(clock_mhz, sequence))
        if not expected or sequence > expected[-1][1]:
            expected.append((clock_mhz, sequence))
    assert [(c.clock_mhz, c.sequence) for c in actuator.commands] == expected
    assert actuator.status().clock_mhz == (expected[-1][0] if expected else 1410)


def test_refused_commands_leave_no_trace() -> None:
    actuator = RecordingActuator(TABLE_MHZ, time=ManualTime())
    with pytest.raises(ConfigError, match=r"^clock_mhz = 1000\.0 .*210-1410 MHz.*table\(\)"):
        actuator.apply(command(1000.0, 0))
    with pytest.raises(ConfigError, match=r"^lease_s = 0\.0"):
        actuator.apply(command(210.0, 0, lease_s=0.0))
    with pytest.raises(ConfigError, match=r"^lease_s = nan"):
        actuator.apply(command(210.0, 0, lease_s=math.nan))
    actuator.close()
    with pytest.raises(ActuatorError, match=r"closed.*Open another"):
        actuator.apply(command(210.0, 0))
    assert actuator.commands == ()


@pytest.mark.parametrize(
    ("table_mhz", "arguments", "field"),
    [
        ((), {}, "table_mhz"),
        ((1410.0, 210.0), {}, "table_mhz"),
        ((210.0, 210.0), {}, "table_mhz"),
        ((-15.0, 210.0), {}, "table_mhz"),
        ((math.nan,), {}, "table_mhz"),
        (TABLE_MHZ, {"default_mhz": 1000.0}, "default_mhz"),
        (TABLE_MHZ, {"settle_s": -1.0}, "settle_s"),
        (TABLE_MHZ, {"settle_s": math.nan}, "settle_s"),
    ],
)
def test_impossible_devices_are_refused(
    table_mhz: tuple[float, ...], arguments: dict[str, float], field: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{field} = "):
        RecordingActuator(table_mhz, time=ManualTime(), **arguments)  # type: ignore[arg-type]


def test_a_dry_run_never_touches_its_device() -> None:
    device = RecordingActuator(TABLE_MHZ, time=ManualTime())
    dry = DryRun(device)
    with structlog.testing.capture_logs() as logs:
        dry.apply(command(210.0, 4))
        dry.apply(command(1005.0, 3))
    status = dry.status()
    assert (status.clock_mhz, status.target_mhz, status.sequence) == (1410, 210, 4)
    assert device.commands == ()
    assert [(log["event"], log["clock_mhz"], log["log_level"]) for log in logs] == [
        ("would apply", 210.0, "debug")
    ]
    dry.close()
    with pytest.raises(ActuatorError, match="closed"):
        device.apply(command(210.0, 5))
