"""The parent of the actuator daemon: watches the worker that holds NVML, and nothing else.

It owns the socket's path, starts the worker, and kills it when it falls silent or a driver call
does not return. Then short-lived children reset the clocks, which may hang as well and are killed
too, and a new worker starts. The parent itself never loads the driver.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.notify import notify, watchdog_period_s
from voltana_actuatord.daemon.privileges import CAP_SYS_ADMIN, drop_capabilities
from voltana_actuatord.daemon.restorer import LIMITS_S, Restorers
from voltana_actuatord.errors import ActuatorError

if TYPE_CHECKING:
    from voltana_actuatord.daemon.statefolder import StateFolder

START_LIMIT_S = 3.0
STOP_LIMIT_S = 2.0
KILL_LIMIT_S = 0.5
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 2.0
MAX_BACKOFF_S = 2.0
STEADY_S = 5.0


class Supervisor:
    """Runs the daemon until SIGTERM.

    Args:
        config: What `DaemonSettings.to_plain` made.
        state: Its state folder, which this process holds.

    Raises:
        ActuatorError: If the socket cannot be made.
    """

    def __init__(self, config: dict[str, Any], state: StateFolder) -> None:
        self._log = Log("parent")
        self._config = config
        self._silence_s = float(config["silence_s"])
        self._socket_path = Path(config["socket"])
        self._state = state
        self._wakeup_r, self._wakeup_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = False
        self._listener = _listen(self._socket_path, config["socket_mode"], config["socket_gid"])
        self._restorers = Restorers(
            state.journal,
            [self._state.lock, self._listener.fileno(), self._wakeup_r, self._wakeup_w],
        )
        self._worker: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._ready = False
        self._ever_ready = False
        self._heard_s = 0.0
        self._started_s = 0.0
        self._backoff_s = 0.0
        self._start_at_s = 0.0
        self._retry_at_s = 0.0
        self._retry_pause_s = FIRST_RETRY_S
        self._quarantined: set[str] = set()
        self._fatal = ""

    def run(self) -> int:
        """Run until SIGTERM or SIGINT.

        Returns:
            Exit status: 0 after an orderly stop, 1 if there is no driver or a clock could not be
            given back.
        """
        signal.set_wakeup_fd(self._wakeup_w, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        drop_capabilities(keep=(CAP_SYS_ADMIN,))
        watchdog_s = watchdog_period_s() or 1.0
        watchdog_at_s = 0.0
        self._restore_now()
        while not self._stopping and not self._fatal:
            now_s = time.monotonic()
            if now_s >= watchdog_at_s:
                notify("WATCHDOG=1")
                watchdog_at_s = now_s + watchdog_s
            self._look_after_worker(now_s)
            self._retry_quarantined(now_s)
            self._wait(min(0.1, watchdog_s))
        notify("STOPPING=1")
        return self._shut_down()

    # --- the worker

    def _look_after_worker(self, now_s: float) -> None:
        if self._worker is None:
            if now_s >= self._start_at_s:
                self._start_worker(now_s)
            return
        self._listen_to_worker()
        if self._worker.poll() is not None:
            self._log(f"the worker ended with status {self._worker.returncode}.")
            self._replace_worker(now_s)
            return
        limit_s = self._silence_s if self._ready else START_LIMIT_S
        silent_s = now_s - self._heard_s
        if silent_s > limit_s:
            self._log(f"no sign of life from the worker for {silent_s:.1f} s: killing it.")
            self._replace_worker(now_s)

    def _start_worker(self, now_s: float) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = self._config | {"quarantined": sorted(self._quarantined)}
        ours.send(json.dumps(config).encode())
        ours.setblocking(False)
        listener = self._listener.fileno()
        self._worker = _spawn("worker", [listener, theirs.fileno()], [self._state.lock])
        theirs.close()
        self._channel = ours
        self._ready = False
        self._heard_s = self._started_s = now_s
        self._state.note_worker(self._worker.pid)

    def _listen_to_worker(self) -> None:
        if self._channel is None:
            return
        with contextlib.suppress(OSError):  # nothing more to read, or the worker is gone
            while message := self._channel.recv(1024):
                self._hear(message)

    def _hear(self, message: bytes) -> None:
        if message.startswith(b"hung "):
            self._log(f"a driver call for GPU {message[5:].decode()} does not return.")
            self._heard_s = -math.inf  # as good as silent
            return
        self._heard_s = time.monotonic()
        if message == b"ready":
            self._ready = self._ever_ready = True
            notify("READY=1")
        elif message.startswith(b"failed "):
            text = message[7:].decode(errors="replace")
            self._log(text)
            if not self._ever_ready:
                self._fatal = text

    def _replace_worker(self, now_s: float) -> None:
        """Kill what is left of the worker, give the clocks back, and plan its successor."""
        self._end_worker()
        self._restore_now()
        steady = now_s - self._started_s > STEADY_S
        self._backoff_s = 0.0 if steady else min(MAX_BACKOFF_S, 2 * self._backoff_s + 0.05)
        self._start_at_s = time.monotonic() + self._backoff_s

    def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(KILL_LIMIT_S)
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    # --- restoring

    def _restore_now(self) -> None:
        """Restore what is marked, before anything else; what fails is quarantined."""
        self._quarantined = self._restorers.restore()
        if self._quarantined:
            self._log(f"not at default clocks yet: {', '.join(sorted(self._quarantined))}.")
        self._retry_pause_s = FIRST_RETRY_S
        self._retry_at_s = time.monotonic() + self._retry_pause_s

    def _retry_quarantined(self, now_s: float) -> None:
        """Try again, soon at first: a GPU that was lost for a moment must not stay locked."""
        if not self._quarantined or now_s < self._retry_at_s:
            return
        left = self._restorers.restore(LIMITS_S[:1], only=self._quarantined)
        for uuid in self._quarantined - left:
            self._log(f"{uuid} is at its default clocks again.")
            if self._channel is not None:
                with contextlib.suppress(OSError):
                    self._channel.send(b"restored " + uuid.encode())
        self._quarantined = left
        self._retry_pause_s = min(LAST_RETRY_S, 2 * self._retry_pause_s)
        self._retry_at_s = time.monotonic() + self._retry_pause_s

    # --- start and stop

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _wait(self, seconds: float) -> None:
        readers: list[Any] = [self._wakeup_r]
        if self._channel is not None:
            readers.append(self._channel)
        ready, _, _ = select.select(readers, [], [], seconds)
        if self._wakeup_r in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup_r, 512)

    def _shut_down(self) -> int:
        with contextlib.suppress(OSError):
            self._socket_path.unlink()
        if self._worker is not None:
            self._worker.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._worker.wait(STOP_LIMIT_S)
        self._end_worker()
        self._restore_now()
        self._state.forget_worker()
        self._listener.close()
        return 1 if self._quarantined or self._fatal else 0


def _listen(path: Path, mode: int, gid: int | None) -> socket.socket:
    """Bind the socket; only the lock's holder gets here, so an old path is nobody's."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if path.exists() and not path.is_socket():
        raise ActuatorError(f"{path} exists and is not a socket. Move it, or choose another path.")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)  # nobody else may connect before the mode is set
    try:
        listener.bind(str(path))
    except OSError as error:
        raise ActuatorError(f"socket {path} cannot be made: {error.strerror}.") from None
    finally:
        os.umask(before)
    if gid is not None:
        os.chown(path, -1, gid)
    path.chmod(mode)
    listener.listen(32)
    return listener


def _spawn(module: str, arguments: list[int], also: list[int]) -> subprocess.Popen[bytes]:
    """Start a module of this package with descriptors that it inherits."""
    command = [
        sys.executable,
        "-I",
        "-m",
        f"voltana_actuatord.daemon.{module}",
        *map(str, arguments),
    ]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[*arguments, *also])
