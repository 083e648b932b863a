"""Processes with more than 1,024 open files: `select.select` waits for none that comes next."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.actuation.daemons import Daemon
from voltana.serving.launch import warden

if TYPE_CHECKING:
    from pathlib import Path

    from tests.actuation.driver import Machine

HOLD = """
import os, resource, signal, sys
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
held = [os.dup(1) for _ in range(1100)]
assert held[-1] > 1023
"""
"""Until then the files that are opened next have numbers above 1023."""

DAEMON = f"{HOLD}\nfrom voltana_actuatord.daemon.command import main\nsys.exit(main())"

WARDEN = f"""{HOLD}
pipe, launch = os.pipe()
child = os.fork()
if child == 0:
    os.close(launch)
    os.set_inheritable(pipe, True)
    asleep = ["sh", "-c", "echo up; exec sleep 600"]
    os.execv(sys.executable, [sys.executable, "-I", sys.argv[1], str(pipe), "1.0", *asleep])
signal.alarm(60)
sys.stdin.read()
os.close(launch)
print(os.waitpid(child, 0)[1], flush=True)
"""


def test_a_daemon_that_holds_many_files_commands_and_restores(
    tmp_path: Path, machine: Machine
) -> None:
    daemon = Daemon(tmp_path, machine, start=False)
    with daemon.log.open("ab") as log:
        daemon.process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, "--config", str(daemon.config)],
            env=machine.environment(),
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    with daemon:
        with daemon.client(0) as client:
            assert client.reach(1005.0), daemon.log.read_text()
        with daemon.client(0, 1) as client:  # once the first one's clocks are back
            assert client.reach(1005.0)
    assert daemon.process.returncode == 0, daemon.log.read_text()
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.parametrize("launch", ["ends", "is killed"])
def test_a_launch_that_holds_many_files_takes_its_processes_along(launch: str) -> None:
    told = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", WARDEN, warden.__file__], text=True, **told)
    assert process.stdout is not None
    up = process.stdout.readline()
    if launch == "is killed":
        process.kill()
    said, errors = process.communicate(timeout=60)  # its ends of the pipes are all closed
    assert (up, errors) == ("up\n", "")
    assert said == ("15\n" if launch == "ends" else "")
