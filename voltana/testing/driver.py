"""The contract of `voltana_actuatord.drivers.port`, as named checks.

NVML over the fake library, a second vendor and real boards are held to this one suite.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from voltana.testing import driver_checks as checks
from voltana.testing.driver_subject import DriverSubject
from voltana.testing.report import Report, run_checks, title_of
from voltana_actuatord.errors import VoltanaError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from voltana_actuatord.drivers.port import GpuDriver


def check_driver(
    factory: Callable[[], GpuDriver],
    *,
    timeout_s: float = 2.0,
    tolerance_mhz: float = 1.0,
    skip: Collection[str] = (),
) -> Report:
    """Hold a vendor's driver to its contract, on a machine with one GPU or more.

    Clocks and power limits of the first GPU are changed where the privilege is there, and are at
    their defaults afterwards; nobody else should control it meanwhile.

    Args:
        factory: Opens the driver afresh for every check.
        timeout_s: How long a clock may take to be in force.
        tolerance_mhz: How far it may then lie from the one that was set.
        skip: Names of checks to leave out; those of `DRIVER_CHECKS`.
    """
    opened: list[GpuDriver] = []

    def make() -> GpuDriver:
        opened.append(factory())
        return opened[-1]

    subject = DriverSubject(make=make, timeout_s=timeout_s, tolerance_mhz=tolerance_mhz)
    tidy = tuple(_tidy(check, factory, opened) for check in DRIVER_CHECKS)
    return run_checks(title_of(factory), subject, tidy, skip)


DRIVER_CHECKS: tuple[Callable[[DriverSubject], None], ...] = (
    checks.has_the_methods_of_the_port,
    checks.a_uuid_leads_to_the_gpu_that_an_index_led_to,
    checks.names_that_lead_nowhere_are_refused,
    checks.every_kind_of_fault_has_a_remedy,
    checks.table_is_ascending,
    checks.readings_are_sane,
    checks.energy_never_falls,
    checks.lock_holds_the_clock,
    checks.a_lock_outlives_the_driver,
    checks.reset_gives_the_default_back,
    checks.refuses_clocks_outside_the_table,
    checks.power_limits_are_set_within_their_range,
    checks.one_process_may_open_it_twice,
    checks.close_may_be_called_twice,
)
"""The suite that `check_driver` runs."""


def _tidy(
    check: Callable[[DriverSubject], None],
    factory: Callable[[], GpuDriver],
    opened: list[GpuDriver],
) -> Callable[[DriverSubject], None]:
    """`check`, followed by the close of every driver that it opened, and by defaults."""

    @functools.wraps(check)
    def tidy(subject: DriverSubject) -> None:
        try:
            check(subject)
        finally:
            while opened:
                opened.pop().close()
            _restore(factory)

    return tidy


def _restore(factory: Callable[[], GpuDriver]) -> None:
    """Give the defaults back; a broken driver that cannot is what some check reports."""
    with contextlib.suppress(VoltanaError, AttributeError):
        driver = factory()
        gpu = driver.gpu(0)
        gpu.reset()
        gpu.set_power_limit(gpu.power_range().default_w)
        driver.close()
