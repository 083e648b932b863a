"""How long it takes from a decision to the driver: daemon, in-process NVML, nvidia-smi.

Against the fake driver with zero call and settling time, so that the figures are ours and not the
driver's. The fake records when each call entered it, on the clock that this program reads too.
``python -m benchmarks.actuation [--json FILE]``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.actuation.daemons import Daemon
from tests.actuation.driver import Machine, build, build_smi, compiler, uuid_of
from voltana.actuators import ActuatorProcess, InProcessActuator, NvidiaSmiActuator
from voltana.values import Command, Domain

DOMAIN = Domain(name="bench", devices=(uuid_of(0),))
ZERO = {"D_CALL_US": 0, "D_SETTLE_US": 0}
LIMITS_US = {"p50": 100.0, "p99": 500.0, "apply p50": 20.0}


def change_clocks(actuator, machine: Machine, changes: int, pause_s: float):
    """Change the clock `changes` times; microseconds to the driver's entry, and in the caller."""
    table = actuator.table()
    entered_us, caller_us = [], []
    for step in range(changes):
        calls = machine.header("H_RING_HEAD")
        command = Command(domain=DOMAIN, clock_mhz=table[step % len(table)], sequence=step)
        decided_s = time.monotonic()
        actuator.apply(command)
        caller_us.append(1e6 * (time.monotonic() - decided_s))
        while machine.header("H_RING_HEAD") == calls:
            time.sleep(0.0002)
        entered_s = machine.set_calls()[-1][0]
        entered_us.append(1e6 * (entered_s - decided_s))
        actuator.status()
        time.sleep(pause_s)
    return entered_us, caller_us


def quantile(values, share: float) -> float:
    """The value that `share` of `values` stay below."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def report(name: str, entered_us, caller_us) -> dict[str, float]:
    """Print one line and return its figures."""
    row = {
        "p50": quantile(entered_us, 0.5),
        "p99": quantile(entered_us, 0.99),
        "apply p50": quantile(caller_us, 0.5),
        "apply p99": quantile(caller_us, 0.99),
    }
    print(
        f"{name:22s} decision to driver p50 {row['p50']:9.1f} us, p99 {row['p99']:9.1f} us; "
        f"apply() p50 {row['apply p50']:6.1f} us, p99 {row['apply p99']:6.1f} us",
        flush=True,
    )
    return row


def in_this_process(make, machine: Machine, changes: int):
    """Fork, so that every mechanism loads the driver afresh; measure there."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        actuator = make()
        figures = change_clocks(actuator, machine, changes, 0.002)
        actuator.close()
        with os.fdopen(writer, "w") as file:
            json.dump(figures, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        figures = json.load(file)
    os.wait()
    return figures


def heartbeats_us(actuator, count: int):
    """Cost in the caller of steps that keep the clock."""
    clock_mhz, spent_us = actuator.table()[-1], []
    for step in range(10**6, 10**6 + count):
        command = Command(domain=DOMAIN, clock_mhz=clock_mhz, sequence=step)
        started_s = time.perf_counter()
        actuator.apply(command)
        spent_us.append(1e6 * (time.perf_counter() - started_s))
        actuator.status()
        time.sleep(0.001)
    return spent_us


def main() -> int:
    """Measure, print, and say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if compiler() is None:
        print("skipped: no C compiler to build the fake driver with (install gcc)")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = build(folder)
        machine = Machine(folder, library, 1, **ZERO)
        rows = {}
        with Daemon(folder, machine) as daemon:
            actuator = ActuatorProcess(DOMAIN, socket_path=daemon.socket)
            figures = change_clocks(actuator, machine, options.changes, 0.002)
            rows["daemon"] = report("voltana-actuatord", *figures)
            beats = heartbeats_us(actuator, options.changes)
            print(f"{'':22s} a step at the same clock: apply() p50 {quantile(beats, 0.5):.1f} us")
            actuator.close()
        os.environ["FAKE_NVML_STATE"] = str(machine.path)
        _preload(library)
        figures = in_this_process(lambda: InProcessActuator(DOMAIN), machine, options.changes)
        rows["in process"] = report("driver in process", *figures)
        os.environ["LD_LIBRARY_PATH"] = str(library)
        smi = str(build_smi(folder, library))
        figures = in_this_process(
            lambda: NvidiaSmiActuator(DOMAIN, program=smi), machine, options.changes // 20
        )
        rows["nvidia-smi"] = report("nvidia-smi (fake, C)", *figures)
        machine.close()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))
    missed = [key for key, limit in LIMITS_US.items() if rows["daemon"][key] > limit]
    print(
        f"limits of the daemon {LIMITS_US}: {'missed ' + ', '.join(missed) if missed else 'kept'}"
    )
    return 0


def _preload(library: Path) -> None:
    """Load the fake driver by its path; the binding then finds it by its name."""
    import ctypes  # noqa: PLC0415

    ctypes.CDLL(str(library / "libnvidia-ml.so.1"), mode=ctypes.RTLD_GLOBAL)


if __name__ == "__main__":
    sys.exit(main())
