"""What a launch needs is changed while it runs: one process waits for it, the others serve on."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from voltana.serving.launch.child_process import ProcessSpec
from voltana.serving.launch.supervise import LaunchError, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 60.0
SLEEP = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")
SPECS = (
    ProcessSpec(name="decode-0", kind="decode", command=SLEEP, grace_s=1.0),
    ProcessSpec(name="router", kind="router", command=SLEEP, grace_s=1.0, restarts=True),
)


class Running:
    """A launch of two processes, watched in a thread.

    Args:
        logs: Its folder of logs.
    """

    def __init__(self, logs: Path) -> None:
        self.said: list[str] = []
        self.over = threading.Event()
        self.problem: Exception | None = None
        self.supervisor = Supervisor([SPECS], logs, lambda _, text: self.said.append(text))
        assert self.supervisor.start(self.over.is_set)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.supervisor.run(self.over.is_set, "keep-serving")
        except Exception as error:  # noqa: BLE001  (whatever it is, the test tells it)
            self.problem = error

    def pids(self) -> tuple[int, ...]:
        """Its processes."""
        return tuple(child.pid for child in self.supervisor.children)

    def wait(self, condition: Callable[[], object]) -> bool:
        """Whether something comes about while the launch runs."""
        ends_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_s and self._thread.is_alive():
            if condition():
                return True
            time.sleep(0.02)
        return False

    def end(self) -> None:
        """End it."""
        self.over.set()
        self._thread.join()
        self.supervisor.shut_down(lambda: True)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "logs")
    yield running
    running.end()


def test_a_folder_of_logs_that_is_taken_away_is_made_anew(launch: Running, tmp_path: Path) -> None:
    server, router = launch.pids()
    shutil.rmtree(tmp_path / "logs")
    os.kill(router, signal.SIGKILL)
    assert launch.wait(lambda: launch.pids()[1] != router), (launch.problem, launch.said)
    assert launch.pids()[0] == server
    assert (tmp_path / "logs" / "router.log").is_file()


def test_a_log_that_cannot_be_opened_is_waited_for(launch: Running, tmp_path: Path) -> None:
    server, router = launch.pids()
    log = tmp_path / "logs" / "router.log"
    log.unlink()
    log.mkdir()
    os.kill(router, signal.SIGKILL)
    assert launch.wait(lambda: any("cannot be started" in text for text in launch.said)), (
        launch.problem
    )
    assert launch.pids() == (server, router)
    log.rmdir()
    assert launch.wait(lambda: launch.pids()[1] != router), (launch.problem, launch.said)
    assert launch.pids()[0] == server


def test_a_log_that_cannot_be_opened_at_the_start_ends_the_launch_in_words(tmp_path: Path) -> None:
    (tmp_path / "router.log").mkdir()
    supervisor = Supervisor([SPECS], tmp_path, lambda *_: None)
    try:
        with pytest.raises(LaunchError, match="router cannot be started"):
            supervisor.start(lambda: False)
        (server,) = supervisor.children
    finally:
        supervisor.shut_down(lambda: True)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
