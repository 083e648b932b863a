"""One process that a launch starts: its command, its log, whether it is ready, its end.

Every process runs under a warden (`warden.py`), in a session of its own: its end takes along
whatever it has started, and so does the end of the launch, however that comes.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import secrets
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.serving.launch import warden
from voltana.serving.launch.strays import end_strays, environment, guarded, pipe

if TYPE_CHECKING:
    from pathlib import Path

_KILL_S = 12.0
_LOOK_S = 0.01
_PROBE_TIMEOUT_S = 2.0
_LAST_WORDS_BYTES = 1500


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """What to start.

    Attributes:
        name: Unique in a launch; also the stem of its log.
        command: The program and its arguments.
        environment: Variables on top of those of this process, as pairs.
        ready_url: Answers 200 once the process is ready; None counts it as ready at once.
        kind: ``prefill``, ``decode``, ``unified``, ``agent`` or ``router``.
        grace_s: How long it may take over SIGTERM before it is killed.
        restarts: Whether it may be started again: it is up in seconds, and keeps nothing that the
            next one would miss.
    """

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    ready_url: str | None = None
    kind: str
    grace_s: float = 5.0
    restarts: bool = False


class ChildProcess:
    """A process as started from a specification.

    Args:
        spec: What to start.
        logs: Folder for its log, which exists.
        again: Whether an earlier one of this name ended, whose log is to be kept.
    """

    def __init__(self, spec: ProcessSpec, logs: Path, *, again: bool = False) -> None:
        self.spec = spec
        self.log = logs / f"{spec.name}.log"
        self.started_s = time.monotonic()
        self.ready_after_s: float | None = None
        self._mark = secrets.token_hex(16)
        with self.log.open("ab" if again else "wb") as log:
            self._process = subprocess.Popen(
                guarded(spec.command, spec.grace_s),
                env=os.environ | dict(spec.environment) | environment(logs, self._mark),
                pass_fds=(pipe(),),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of its warden, which is the id of its session and process group too."""
        return self._process.pid

    def status(self) -> int | None:
        """Exit status; None while it runs. Once it has ended, so has whatever it left behind."""
        if self._process.returncode is None:
            with contextlib.suppress(ChildProcessError):
                flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
                if os.waitid(os.P_PID, self.pid, flags) is None:
                    return None
                end_strays(self.pid, self._mark)  # as long as the number is still its own
        return self._process.poll()

    def probe(self) -> bool:
        """Whether it is ready; asks only until it has been so once."""
        if self.ready_after_s is None and self.status() is None and self._answers():
            self.ready_after_s = time.monotonic() - self.started_s
        return self.ready_after_s is not None

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def finish(self, timeout_s: float) -> None:
        """Wait for its end, then kill whatever is left of it and of its children."""
        if self._ends_within(timeout_s):
            return
        self._signal(warden.NOW)
        if not self._ends_within(_KILL_S):
            self._signal(signal.SIGKILL)
            self._ends_within(math.inf)

    def _signal(self, number: int) -> None:
        """A signal to the warden while it lives, and to nobody who has its number later."""
        if self.status() is None:
            os.kill(self.pid, number)

    def _ends_within(self, timeout_s: float) -> bool:
        ends_s = time.monotonic() + timeout_s
        while self.status() is None:
            if time.monotonic() >= ends_s:
                return False
            time.sleep(_LOOK_S)
        return True

    def last_words(self) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return self.log.read_bytes()[-_LAST_WORDS_BYTES:].decode(errors="replace").strip()
        return ""

    def _answers(self) -> bool:
        if self.spec.ready_url is None:
            return True
        try:
            with urllib.request.urlopen(self.spec.ready_url, timeout=_PROBE_TIMEOUT_S) as reply:
                return bool(reply.status == http.client.OK)
        except (OSError, http.client.HTTPException):
            return False


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-status).name}"
    return f"signal {-status}"
