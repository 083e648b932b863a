"""What a fault hits: the processes that write a log, and not what guards them."""

from __future__ import annotations

import signal
import subprocess
import sys

from voltana.rehearsal.faults import kill
from voltana.serving.launch import warden
from voltana.serving.launch.strays import guarded, pipe

SLEEP = (sys.executable, "-c", "import sys, time; print('up', flush=True); time.sleep(60)")


def test_whoever_writes_a_log_is_killed_and_its_warden_tells_so(tmp_path):
    mine, other = tmp_path / "agent-decode-0.log", tmp_path / "agent-decode-1.log"
    started = []
    for log in (mine, other):
        with log.open("wb") as file:
            started.append(
                subprocess.Popen(
                    guarded(SLEEP, 1.0),
                    pass_fds=(pipe(),),
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            )
    try:
        while not all(log.read_text() for log in (mine, other)):
            pass
        kill(mine)
        assert started[0].wait(10) == -signal.SIGKILL
        assert started[1].poll() is None
    finally:
        for process in started:
            if process.poll() is None:
                process.send_signal(warden.NOW)
                process.wait(10)
