"""Checks of a driver's names, readings and settings."""

from __future__ import annotations

import itertools
import math
import time
from functools import partial
from typing import TYPE_CHECKING

from voltana.testing.driver_subject import DriverSubject, change
from voltana.testing.report import NotApplicable, Violation, expect
from voltana_actuatord.drivers.port import GpuDriver, PowerRange, Reason
from voltana_actuatord.faults import (
    KINDS,
    DriverArgumentError,
    DriverError,
    NoSuchGpuError,
    NotSupportedError,
    PartitionedGpuError,
)
from voltana_actuatord.gpu_names import uuid_problem

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = (
    *("name", "remedy", "clocks_mhz", "lock", "reset", "in_force_mhz", "unlocked_mhz"),
    "event_reasons",
    *("keeps_settings", "refuse_partitioned", "clock_mhz", "power_w", "energy_j"),
    *("power_limit_w", "power_range", "set_power_limit"),
)
NOWHERE = "GPU-00000000-dead-beef-0000-000000000000"
WATCH_S = 0.25


def has_the_methods_of_the_port(subject: DriverSubject) -> None:
    """A driver and its GPUs have what drivers/port.py lists; they need no base class."""
    driver = subject.make()
    remedy = "Add it; voltana_actuatord.drivers.port has the signatures."
    expect(isinstance(driver, GpuDriver), f"{type(driver).__name__} lacks a method", remedy)
    expect(driver.count() > 0, "count() = 0", "Run the suite on a machine with a GPU.")
    expect(bool(driver.version()), "version() is empty", "Give the version of the driver.")
    gpu = driver.gpu(0)
    lacks = [name for name in METHODS if not callable(getattr(gpu, name, None))]
    lacks += [name for name in ("uuid", "label") if not isinstance(getattr(gpu, name, None), str)]
    expect(not lacks, f"{type(gpu).__name__} lacks {', '.join(lacks)}", remedy)


def a_uuid_leads_to_the_gpu_that_an_index_led_to(subject: DriverSubject) -> None:
    """Every GPU has a UUID of its own, and that leads back to it, in another opening as well."""
    driver, again = subject.make(), subject.make()
    uuids = [driver.gpu(index).uuid for index in range(driver.count())]
    remedy = "Name GPUs by what the board carries, not by their place."
    expect(len(set(uuids)) == len(uuids), f"UUIDs {uuids}", remedy)
    for uuid in uuids:
        expect(not uuid_problem(uuid), uuid_problem(uuid), remedy)
        found = again.gpu(uuid)
        expect(found.uuid == uuid, f"gpu({uuid!r}) has UUID {found.uuid!r}", remedy)
        expect(uuid in found.label, f"label {found.label!r}", "Say the name that was asked for.")


def names_that_lead_nowhere_are_refused(subject: DriverSubject) -> None:
    """An index beyond count() and a UUID of no GPU raise NoSuchGpuError."""
    driver = subject.make()
    for name in (driver.count(), driver.count() + 7, NOWHERE):
        _expect_refused(NoSuchGpuError, partial(driver.gpu, name), f"gpu({name!r})")


def every_kind_of_fault_has_a_remedy(subject: DriverSubject) -> None:
    """remedy() says in a sentence what a user of this vendor does about each kind of fault."""
    gpu = subject.first()
    for kind in KINDS:
        text = gpu.remedy(kind)
        holds = isinstance(text, str) and len(text) > 10 and text.rstrip().endswith(".")
        expect(holds, f"remedy({kind.__name__}) = {text!r}", "Write a sentence for it.")


def table_is_ascending(subject: DriverSubject) -> None:
    """clocks_mhz() is a tuple of clocks in MHz, finite, positive and strictly ascending."""
    gpu = subject.first()
    table = gpu.clocks_mhz()
    holds = (
        isinstance(table, tuple)
        and len(table) > 0
        and all(0 < mhz < math.inf for mhz in table)
        and all(a < b for a, b in itertools.pairwise(table))
    )
    expect(holds, f"clocks_mhz() = {str(table)[:80]}", "Sort it, drop repetitions, convert to MHz.")


def readings_are_sane(subject: DriverSubject) -> None:
    """Clock, power and limit are positive numbers in MHz and W, reasons are those of the port."""
    gpu = subject.first()
    clock_mhz, power_w = gpu.clock_mhz(), _or_nan(gpu.power_w)
    expect(0 < clock_mhz < 10_000, f"clock_mhz() = {clock_mhz!r}", "Convert to MHz.")
    unlocked_mhz = gpu.unlocked_mhz()
    expect(unlocked_mhz > 0, f"unlocked_mhz() = {unlocked_mhz!r}", "Say inf where nothing limits.")
    plausible = math.isnan(power_w) or 0 < power_w < 5_000
    expect(plausible, f"power_w() = {power_w!r}", "Convert to watts.")
    reasons = gpu.event_reasons()
    known = isinstance(reasons, frozenset) and all(isinstance(one, Reason) for one in reasons)
    expect(known, f"event_reasons() = {reasons!r}", "Map the vendor's reasons to port.Reason.")
    keeps = gpu.keeps_settings()
    expect(isinstance(keeps, bool), f"keeps_settings() = {keeps!r}", "Return True or False.")
    try:
        gpu.refuse_partitioned()
    except PartitionedGpuError:
        return


def energy_never_falls(subject: DriverSubject) -> None:
    """energy_j() only grows, by about as much as power_w() says; ticks of 0.1 s are allowed."""
    gpu = subject.first()
    before_j, power_w = _or_nan(gpu.energy_j), _or_nan(gpu.power_w)
    if math.isnan(before_j) or math.isnan(power_w):
        raise NotApplicable("the board lacks the counter, or power")
    last_j, started_s = before_j, time.monotonic()
    while time.monotonic() - started_s < WATCH_S:
        now_j = gpu.energy_j()
        expect(now_j >= last_j, f"{now_j:g} J after {last_j:g} J", "Give a counter, not a power.")
        last_j = now_j
    mean_w = (last_j - before_j) / (time.monotonic() - started_s)
    expect(mean_w < 3 * power_w, f"{mean_w:g} W by the counter", "Convert to joules and watts.")


def lock_holds_the_clock(subject: DriverSubject) -> None:
    """After lock() the clock in force is the one that was set, and its reason says so."""
    gpu = subject.first()
    for clock_mhz in (gpu.clocks_mhz()[0], gpu.clocks_mhz()[len(gpu.clocks_mhz()) // 2]):
        change(partial(gpu.lock, clock_mhz, clock_mhz))
        now_mhz = subject.reached(gpu, clock_mhz)
        seen = f"{now_mhz:g} MHz in force after lock({clock_mhz:g})"
        expect(subject.near(now_mhz, clock_mhz), seen, "Read back what the board runs at.")
        reasons = gpu.event_reasons()
        expect(Reason.SETTING in reasons, f"reasons {set(reasons)}", "Report port.Reason.SETTING.")


def a_lock_outlives_the_driver(subject: DriverSubject) -> None:
    """Where settings are kept, a lock stands after close(), in every other opening."""
    driver = subject.make()
    gpu = driver.gpu(0)
    if not gpu.keeps_settings():
        raise NotApplicable("settings are not kept")
    low_mhz = gpu.clocks_mhz()[0]
    change(lambda: gpu.lock(low_mhz, low_mhz))
    subject.reached(gpu, low_mhz)
    driver.close()
    now_mhz = subject.reached(subject.first(), low_mhz)
    expect(subject.near(now_mhz, low_mhz), f"{now_mhz:g} MHz", "Leave the board alone in close().")


def reset_gives_the_default_back(subject: DriverSubject) -> None:
    """After reset() no setting is in force; a reset of what is not set is harmless."""
    gpu = subject.first()
    change(gpu.reset)
    low_mhz = gpu.clocks_mhz()[0]
    change(lambda: gpu.lock(low_mhz, low_mhz))
    subject.reached(gpu, low_mhz)
    gpu.reset()
    gpu.reset()
    reasons = gpu.event_reasons()
    expect(Reason.SETTING not in reasons, f"reasons {set(reasons)}", "Undo what lock() did.")


def refuses_clocks_outside_the_table(subject: DriverSubject) -> None:
    """lock() raises DriverArgumentError for a clock beyond the table and for an empty range."""
    gpu = subject.first()
    low_mhz, top_mhz = gpu.clocks_mhz()[0], gpu.clocks_mhz()[-1]
    change(gpu.reset)
    for low, high in ((top_mhz + 1e4, top_mhz + 1e4), (top_mhz, low_mhz)):
        what = f"lock({low:g}, {high:g})"
        _expect_refused(DriverArgumentError, partial(gpu.lock, low, high), what)
    reasons = gpu.event_reasons()
    expect(Reason.SETTING not in reasons, "a refused lock is in force", "Change nothing then.")


def power_limits_are_set_within_their_range(subject: DriverSubject) -> None:
    """A limit within power_range() is in force after it was set; one outside is refused."""
    gpu = subject.first()
    try:
        span = gpu.power_range()
    except NotSupportedError:
        raise NotApplicable("the board has no power limit") from None
    ordered = isinstance(span, PowerRange) and 0 < span.min_w <= span.default_w <= span.max_w
    expect(ordered, f"power_range() = {span}", "Give min <= default <= max in watts.")
    change(lambda: gpu.set_power_limit(span.min_w))
    now_w = gpu.power_limit_w()
    expect(abs(now_w - span.min_w) < 1.0, f"{now_w:g} W in force", "Convert from watts.")
    gpu.set_power_limit(span.default_w)
    for watts in (span.min_w / 2, span.max_w * 2):
        what = f"set_power_limit({watts:g})"
        _expect_refused(DriverArgumentError, partial(gpu.set_power_limit, watts), what)


def one_process_may_open_it_twice(subject: DriverSubject) -> None:
    """Two openings live beside each other, and closing one leaves the other usable."""
    first, second = subject.make(), subject.make()
    gpu = second.gpu(0)
    first.close()
    expect(gpu.clock_mhz() > 0, "no clock", "Count openings, as NVML does.")


def close_may_be_called_twice(subject: DriverSubject) -> None:
    """close() works again after it was called, and another opening after that."""
    driver = subject.make()
    driver.close()
    driver.close()
    expect(subject.make().count() > 0, "no GPU", "Open the driver afresh.")


def _or_nan(read: Callable[[], float]) -> float:
    try:
        return read()
    except NotSupportedError:
        return math.nan


def _expect_refused(kind: type[DriverError], call: Callable[[], object], what: str) -> None:
    """Raise a violation unless a call raises that kind of fault, with a text."""
    remedy = f"Raise voltana_actuatord.faults.{kind.__name__} with the remedy in its text."
    try:
        call()
    except kind as error:
        expect(len(str(error)) > 20, f"{what} says {str(error)!r}", remedy)
    except Exception as error:
        seen = f"{what} raised {type(error).__name__}"
        raise Violation(seen, remedy) from error
    else:
        raise Violation(f"{what} was accepted", remedy)
