"""Chaos: signals at random moments to client, controller and daemon, with random driver faults.

``make chaos`` runs 200 rounds. After every round the devices must be back at their default clocks
within the lease plus 0.5 s, or within 1 s of the daemon's restart where parent and worker were both
hit; nothing may hang, and no process or socket may be left over. Times come from the fake driver's
own record of when a lock went away, on the monotonic clock.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.actuation.daemons import Daemon
from tests.actuation.driver import Machine, build

SIGNALS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)
VICTIMS = ("client", "controller", "worker", "parent", "parent and worker")
FAULTS = (
    "none",
    "none",
    "set returns an error",
    "set hangs",
    "set does nothing",
    "reset returns an error",
    "reset hangs",
    "reset does nothing",
    "read-back fails",
    "slow calls",
    "GPU lost for 0.3 s",
)
SLACK_S = 0.5
RESTART_S = 1.0
RECOVERY_S = 20.0


@dataclass
class Round:
    """One round, and what came of it."""

    victim: str
    signal: str
    fault: str
    silenced: bool
    delay_s: float
    bound_s: float

    @property
    def late(self) -> bool:
        """Whether the devices were back too late."""
        return self.delay_s > self.bound_s


@dataclass
class Chaos:
    """Runs rounds.

    Attributes:
        folder: For sockets and state.
        library: Where the fake driver is.
        lease_s: Lease of the client.
        seed: Of all randomness.
        slack_s: Allowed beyond the lease.
    """

    folder: Path
    library: Path
    lease_s: float = 2.0
    seed: int = 0
    slack_s: float = SLACK_S
    rounds: list[Round] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def run(self, count: int, *, tell: bool = False) -> None:
        """Run `count` rounds; findings are in `rounds` and `problems`."""
        self.rng = random.Random(self.seed)
        self.machine = Machine(self.folder, self.library)
        self.daemon = Daemon(self.folder, self.machine, init=True)
        self.daemon.wait_ready()
        self.client = self._new_client()
        try:
            for number in range(count):
                self._round(VICTIMS[number % len(VICTIMS)], SIGNALS[number // 5 % 3])
                if tell:
                    sys.stdout.write(f"{number + 1:4d}  {self.rounds[-1]}\n")
                    sys.stdout.flush()
        finally:
            self._finish()

    def _round(self, victim: str, number: signal.Signals) -> None:
        self._await_control()
        rng, machine = self.rng, self.machine
        fault = rng.choice(FAULTS)
        self._inject(fault, rng.randrange(2))
        time.sleep(rng.uniform(0.0, 0.2))
        silenced = victim in ("client", "controller") or rng.random() < 0.5
        starts = len(self.daemon.starts)
        if silenced and victim != "client":
            self.client.send_signal(signal.SIGUSR1)
        hit_s = time.monotonic()
        self._hit(victim, number)
        if not silenced:  # the client goes on: it must come back into control, then falls silent
            self._clear_fault_after(fault, hit_s)
            self._await_control()
            self.client.send_signal(signal.SIGUSR1)
            hit_s = time.monotonic()
        lost = fault.startswith("GPU lost")
        if lost:
            self._clear_fault_after(fault, hit_s)
        if not machine.wait(lambda: not machine.any_locked(), RECOVERY_S):
            self.problems.append(f"a clock is left locked after {victim}, {number.name}, {fault}")
            return
        unlocked_s = max(machine.unlocked_at_s(device) for device in range(2))
        bound_s, since_s = self.lease_s + self.slack_s, hit_s
        restarts = self.daemon.starts[starts:]
        if silenced and victim == "parent and worker" and restarts:
            since_s, bound_s = restarts[0], RESTART_S + self.slack_s - SLACK_S
        delay_s = max(0.0, unlocked_s - since_s)
        self.rounds.append(Round(victim, number.name, fault, silenced, delay_s, bound_s))
        self._tidy(victim)

    def _hit(self, victim: str, number: signal.Signals) -> None:
        worker, parent = self.daemon.worker(), self.daemon.process.pid
        targets = {
            "client": [self.client.pid],
            "controller": [],  # its loop hangs; the process lives
            "worker": [worker],
            "parent": [parent],
            "parent and worker": [parent, worker],
        }[victim]
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                if pid:
                    os.kill(pid, number)

    def _inject(self, fault: str, device: int) -> None:
        machine, times = self.machine, self.rng.choice((1, 2))
        code = self.rng.choice((3, 4, 10, 15, 999))
        if fault == "set returns an error":
            machine.fault(device, "F_SET", "K_CODE", code, times)
        elif fault == "set hangs":
            machine.fault(device, "F_SET", "K_HANG", 0, 1)
        elif fault == "set does nothing":
            machine.fault(device, "F_SET", "K_SILENT", 0, times)
        elif fault == "reset returns an error":
            machine.fault(device, "F_RESET", "K_CODE", code, times)
        elif fault == "reset hangs":
            machine.fault(device, "F_RESET", "K_HANG", 0, 1)
        elif fault == "reset does nothing":
            machine.fault(device, "F_RESET", "K_SILENT", 0, times)
        elif fault == "read-back fails":
            machine.fault(device, "F_CLOCK", "K_CODE", code, times)
        elif fault == "slow calls":
            machine.set(device, "D_CALL_US", 11_000)
        elif fault.startswith("GPU lost"):
            machine.set(device, "D_LOST", 1)

    def _clear_fault_after(self, fault: str, hit_s: float) -> None:
        if fault.startswith("GPU lost"):
            time.sleep(max(0.0, hit_s + 0.3 - time.monotonic()))
        self.machine.clear_faults()

    def _await_control(self) -> None:
        """Wait until the client controls both devices."""
        before = [self.machine.get(device, "D_SET_CALLS") for device in range(2)]

        def controlled() -> bool:
            return all(
                self.machine.get(device, "D_SET_CALLS") > before[device] + 1
                and self.machine.locked_mhz(device)
                for device in range(2)
            )

        if not self.machine.wait(controlled, RECOVERY_S):
            text = self.daemon.log.read_text()[-2000:]
            raise AssertionError(f"deadlock: the client is not in control again.\n{text}")

    def _tidy(self, victim: str) -> None:
        self.machine.clear_faults()
        for device in range(2):
            self.machine.set(device, "D_CALL_US", 500)
        if victim == "client":
            self.client.kill()
            self.client.wait()
            self.client = self._new_client()
        else:
            self.client.send_signal(signal.SIGUSR2)

    def _new_client(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.actuation.chaos_client"]
        return subprocess.Popen(
            [*command, str(self.daemon.socket), str(self.lease_s)], cwd=Path(__file__).parents[2]
        )

    def _finish(self) -> None:
        self.client.kill()
        self.client.wait()
        self.daemon.wait_ready()  # init may be restarting it after the last round
        if self.daemon.stop() != 0:
            self.problems.append("the daemon's last stop failed")
        if self.machine.any_locked():
            self.problems.append("a clock is locked at the end")
        if self.daemon.socket.exists():
            self.problems.append("the socket is left over")
        if list(self.daemon.journal.glob("*.locked")):
            self.problems.append("the journal is not empty")
        time.sleep(0.2)
        orphans = _processes_of(self.machine.path)
        if orphans:
            self.problems.append(f"orphan processes: {orphans}")
        self.machine.close()


def _processes_of(state: Path) -> list[int]:
    """Living processes that have the fake machine in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if f"FAKE_NVML_STATE={state}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def main() -> int:
    """Run from the command line and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lease", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chaos = Chaos(folder, build(folder), options.lease, options.seed)
        started_s = time.monotonic()
        chaos.run(options.rounds, tell=True)
    sys.stdout.write(f"\n{options.rounds} rounds in {time.monotonic() - started_s:.0f} s\n")
    for victim in VICTIMS:
        for restarted in (False, True):
            of_victim = [r for r in chaos.rounds if r.victim == victim]
            mine = [r for r in of_victim if (r.bound_s == RESTART_S) == restarted]
            if mine:
                worst = max(r.delay_s for r in mine)
                since = "the daemon's restart" if restarted else "the hit"
                sys.stdout.write(
                    f"  {victim:18s} {len(mine):4d} rounds, at defaults at most {worst:.2f} s "
                    f"after {since} (bound {mine[0].bound_s:.1f} s)\n"
                )
    late = [r for r in chaos.rounds if r.late]
    sys.stdout.write(f"late: {len(late)}, problems: {chaos.problems or 'none'}\n")
    for one in late:
        sys.stdout.write(f"  late: {one}\n")
    return 1 if late or chaos.problems else 0


if __name__ == "__main__":
    sys.exit(main())
