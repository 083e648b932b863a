"""What tests of sweeps share: short scenarios, and a sweep in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from voltana.evaluation.sweep import make_plan
from voltana.evaluation.sweep.work import attempt

ROOT = Path(__file__).parent.parent
SHORT = {
    "policies": ["static-max", "static-low"],
    "cluster": {"prefill": 1, "decode": 1},
    "workload": {"rate_rps": 4.0, "duration_s": 2.0},
}
"""Takes about 20 ms with both policies."""


def sweep_process(out, *arguments, env=None):
    """`voltana sweep` as a process, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "voltana", "sweep", "--out", str(out), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What runs the tests may ignore interrupts, as a shell does for its background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    )


def grid(runs, duration=2):
    """Arguments of a sweep over so many short scenarios, of two policies each."""
    return (
        *(
            "--policy",
            "static-max,static-low",
            "--grid",
            "pd=1:1",
            "--grid",
            f"duration={duration}",
        ),
        *("--grid", f"seed=1..{runs // 4}", "--grid", "rate=3..6"),
    )


def records(out):
    """What is kept of each finished scenario: inode and time of its record, by name."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in (Path(out) / "runs").glob("*.json")
    }


def wait_until(what, *, within_s=60.0):
    """Wait until `what` gives something true, and give that."""
    ends_s = time.monotonic() + within_s
    while not (found := what()):
        assert time.monotonic() < ends_s, "it did not happen in time"
        time.sleep(0.01)
    return found


def children_of(pid):
    """Processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def is_running(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_hard(process):
    """SIGKILL, to the process alone: what it started has to notice."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


class InThisProcess:
    """Runs tasks in this process, one after the other."""

    def __init__(self):
        self.ran = []

    def run(self, tasks):
        for task in tasks:
            self.ran.append(task.key)
            yield attempt(task)


def short_plan(**grid):
    return make_plan(SHORT, grid or {"seed": [1, 2]})
