"""Chaos: signals at random moments to client, controller and daemon, with random driver faults.

``make chaos`` runs 200 rounds; ``--rounds 10000 --jobs 2 --resume`` as many as there is time for
(`chaos_runs`). After every round the devices must be back at their default clocks
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
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.actuation.chaos_faults import PASSING, Faults, LogPipe
from tests.actuation.daemons import Daemon
from tests.actuation.driver import Machine
from tests.actuation.stalls import EVERY_S, StallWatch

SIGNALS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)
VICTIMS = ("client", "controller", "worker", "parent", "parent and worker", "GPU's process")
SLACK_S = 0.5
RESTART_S = 1.0
RECOVERY_S = 20.0
PATIENCE_S = 150.0
"""How long a client may be out of control on a machine that itself stands still most of the time: a
deadlock lasts for ever, and is found then as well."""

REPETITIONS = 4
"""How often a round is run again while the machine stands still."""


@dataclass
class Round:
    """One round, and what came of it."""

    victim: str
    signal: str
    fault: str
    silenced: bool
    delay_s: float
    bound_s: float
    restarted: bool = False
    stalled_s: float = 0.0

    @property
    def late(self) -> bool:
        """Whether the devices were back too late."""
        return self.delay_s > self.bound_s

    @property
    def excused(self) -> bool:
        """Whether the machine stood still for longer than they were late: it is run again."""
        return self.late and self.stalled_s + 2 * EVERY_S >= self.delay_s - self.bound_s


@dataclass
class Chaos:
    """Runs rounds.

    Attributes:
        folder: For sockets and state.
        library: Where the fake driver is.
        lease_s: Lease of the client.
        seed: Of all randomness.
        slack_s: Allowed beyond the lease.
        rounds: What counts.
        stalled: Rounds that were run again, because the machine itself stood still.
    """

    folder: Path
    library: Path
    lease_s: float = 2.0
    seed: int = 0
    slack_s: float = SLACK_S
    rounds: list[Round] = field(default_factory=list)
    stalled: list[Round] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def run(self, count: int, *, tell: bool = False) -> None:
        """Run `count` rounds; findings are in `rounds` and `problems`."""
        self.rng = random.Random(self.seed)
        self.watch = StallWatch()
        self.machine = Machine(self.folder, self.library)
        self.pipe = LogPipe(self.folder / "chaos.log")
        self.daemon = Daemon(self.folder, self.machine, init=True, stderr=self.pipe.writer)
        self.faults = Faults(self.machine, self.daemon, self.pipe, self.rng)
        self.hung = self.folder / "hung"
        self.daemon.wait_ready(PATIENCE_S)
        self.client = self._new_client()
        try:
            for number in range(count):
                self._until_undisturbed(
                    VICTIMS[number % len(VICTIMS)], SIGNALS[number // len(VICTIMS) % 3]
                )
                if tell:
                    sys.stdout.write(f"{number + 1:4d}  {self.rounds[-1]}\n")
                    sys.stdout.flush()
        finally:
            self._finish()

    def _until_undisturbed(self, victim: str, number: signal.Signals) -> None:
        """One round that counts."""
        for _ in range(REPETITIONS):
            before = len(self.rounds)
            self._round(victim, number)
            if len(self.rounds) == before or not self.rounds[-1].excused:
                return
            self.stalled.append(self.rounds.pop())
        self._round(victim, number)

    def _round(self, victim: str, number: signal.Signals) -> None:
        self._await_control()
        rng, machine = self.rng, self.machine
        fault = self.faults.choose(spare_marks="parent" in victim)
        self.faults.inject(fault, rng.randrange(2))
        time.sleep(rng.uniform(0.0, 0.2))
        silenced = victim in ("client", "controller") or rng.random() < 0.5
        starts = len(self.daemon.starts)
        if silenced and victim != "client":
            self.hung.touch()
        hit_s = time.monotonic()
        self._hit(victim, number)
        if not silenced:  # the client goes on: it must come back into control, then falls silent
            self._clear_fault_after(fault, hit_s)
            self._await_control()
            self.hung.touch()
            hit_s = time.monotonic()
        if fault in PASSING:
            self._clear_fault_after(fault, hit_s)
        if not machine.wait(self.faults.nothing_of_ours_is_locked, RECOVERY_S):
            self.problems.append(f"a clock is left locked after {victim}, {number.name}, {fault}")
            self._tidy(victim)
            return
        unlocked_s = max(machine.unlocked_at_s(device) for device in range(2))
        bound_s, since_s = self.lease_s + self.slack_s, hit_s
        # A parent that is stopped sees nothing: init's watchdog has to replace it first, and the
        # clock may be back when init ends what is left of the old one.
        blind = victim == "parent and worker" or (victim == "parent" and number == signal.SIGSTOP)
        restarted = silenced and blind and unlocked_s > hit_s + bound_s
        restarted = restarted and machine.wait(lambda: len(self.daemon.starts) > starts)
        if restarted:
            since_s = self.daemon.starts[starts]
            bound_s = RESTART_S + self.slack_s - SLACK_S
        delay_s = max(0.0, unlocked_s - since_s)
        stalled_s = self.watch.stalled_s(hit_s, unlocked_s)
        self.rounds.append(
            Round(victim, number.name, fault, silenced, delay_s, bound_s, restarted, stalled_s)
        )
        self._tidy(victim)

    def _hit(self, victim: str, number: signal.Signals) -> None:
        worker, parent = self.daemon.worker(), self.daemon.process.pid
        holders = sorted(self.daemon.holders())
        targets = {
            "client": [self.client.pid],
            "controller": [],  # its loop hangs; the process lives
            "worker": [worker],
            "parent": [parent],
            "parent and worker": [parent, worker],
            "GPU's process": self.rng.sample(holders, min(1, len(holders))),
        }[victim]
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                if pid:
                    os.kill(pid, number)

    def _clear_fault_after(self, fault: str, hit_s: float) -> None:
        if fault in PASSING:
            time.sleep(max(0.0, hit_s + PASSING[fault] - time.monotonic()))
        self.faults.clear()

    def _await_control(self) -> None:
        """Wait until the client controls both devices."""
        before = [self.machine.get(device, "D_SET_CALLS") for device in range(2)]

        def controlled() -> bool:
            return all(
                self.machine.get(device, "D_SET_CALLS") > before[device] + 1
                and self.machine.locked_mhz(device)
                for device in range(2)
            )

        began_s = time.monotonic()
        while not self.machine.wait(controlled, RECOVERY_S):
            now_s = time.monotonic()
            taken_s = now_s - began_s
            own_s = taken_s - self.watch.stalled_s(began_s, now_s)
            if own_s > RECOVERY_S or taken_s > PATIENCE_S or not self.watch.seeing:
                who = self._who_is_there(began_s)
                raise AssertionError(
                    f"deadlock: the client is not in control again after {taken_s:.0f} s, in "
                    f"{own_s:.0f} of which nobody waited for a processor. {who}\n"
                    f"{self.pipe.text()[-2000:]}"
                )

    def _who_is_there(self, since_s: float) -> str:
        """Whose fault it may be: the client's, the daemon's, or that of what restarts it."""
        starts = sum(at_s > since_s for at_s in self.daemon.starts)
        locked = [self.machine.locked_mhz(device) for device in range(2)]
        return (
            f"Starts of the daemon meanwhile: {starts}; its worker: {self.daemon.worker()}; the "
            f"client's end: {self.client.poll()}, told to hang: {self.hung.exists()}; clocks: "
            f"{locked} MHz."
        )

    def _tidy(self, victim: str) -> None:
        self.faults.clear()
        if victim == "client":
            self.client.kill()
            self.client.wait()
            self.client = self._new_client()
        self.hung.unlink(missing_ok=True)

    def _new_client(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.actuation.chaos_client"]
        return subprocess.Popen(
            [*command, str(self.daemon.socket), str(self.lease_s), str(self.hung)],
            cwd=Path(__file__).parents[2],
        )

    def _finish(self) -> None:
        self.watch.close()
        self.client.kill()
        self.client.wait()
        try:
            self.daemon.wait_ready(PATIENCE_S)  # init may be restarting it after the last round
        finally:
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
        self.pipe.close()
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
    parser.add_argument("--jobs", type=int, default=1, help="rounds run in so many processes")
    parser.add_argument("--slack", type=float, default=SLACK_S, help="beyond the lease, in s")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run ended")
    parser.add_argument("--out", type=Path, default=Path("out/chaos"), help="what was run, by seed")
    options = parser.parse_args()
    from tests.actuation.chaos_runs import run_all

    return run_all(options)


if __name__ == "__main__":
    sys.exit(main())
