"""The parent of the actuator daemon: owns the socket's path, the worker, and every GPU's process.

The worker reads clients' messages and keeps leases; it has no driver and no privilege. Each GPU has
a process of its own (`holder`) that makes its driver calls. The parent starts them all, kills what
falls silent or hangs, has clocks restored, and never loads the driver itself. One GPU's trouble
costs the others nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voltana_actuatord.backoff import Backoff
from voltana_actuatord.daemon.claims import Claims
from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.listening import ListeningPlace
from voltana_actuatord.daemon.notify import notify, watchdog_period_s
from voltana_actuatord.daemon.parentlink import FACTS, MAX_BYTES, say
from voltana_actuatord.daemon.privileges import CAP_SYS_ADMIN, drop_capabilities
from voltana_actuatord.daemon.probe import DriverProbe
from voltana_actuatord.daemon.readers import readable
from voltana_actuatord.daemon.signals import STOPPING, heed
from voltana_actuatord.daemon.starving import Starving
from voltana_actuatord.faults import LeaseRefusedError
from voltana_actuatord.stderr import dropped_lines
from voltana_actuatord.wishes import Terms

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.daemon.keepers import Keepers
    from voltana_actuatord.daemon.statefolder import StateFolder
    from voltana_actuatord.drivers.port import GpuDriver

START_LIMIT_S, LONGEST_START_S = 3.0, 48.0
"""How long a worker may take to start; twice as long after each that took longer, since on a host
without a core to spare a shorter one would never get there."""

STOP_LIMIT_S = 2.0
KILL_LIMIT_S = 0.5
FIRST_START_S = 0.05
MAX_BACKOFF_S = 2.0
STEADY_S = 5.0
CALM_S, RESTLESS_S = 0.05, 0.01
PROBE_PAUSE_S = 0.5
FACTS_S = 1.0
"""How often the worker is told what the parent knows, if that has changed."""

MESSAGES_AT_ONCE = 64
"""What the worker may say before GPUs are looked after again."""


class DaemonParent:
    """Runs the daemon until SIGTERM.

    Args:
        config: What `DaemonSettings.to_plain` made.
        state: Its state folder, which this process holds.
        keepers: Its GPUs.
        open_driver: Opens the driver, in children.

    Raises:
        ActuatorError: If the socket cannot be made.
    """

    def __init__(
        self,
        config: dict[str, Any],
        state: StateFolder,
        keepers: Keepers,
        open_driver: Callable[[], GpuDriver],
    ) -> None:
        self._log = Log("parent")
        self._config = config
        self._silence_s = float(config["silence_s"])
        self._state = state
        self._keepers = keepers
        self._open_driver = open_driver
        self._wakeup_r, self._wakeup_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = False
        self._place = ListeningPlace(
            Path(config["socket"]), config["socket_mode"], config["socket_gid"]
        )
        keepers.limits.call_s = float(config["call_limit_s"])
        keepers.claims = keepers.claims or Claims(Path(config["claims_dir"]))
        keepers.lay_down(Terms(foreign_allowed=config["foreign_allowed"]), config["baselines"])
        self._worker: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._told: dict[str, str] = {}
        self._worker_starts = 0
        self._facts = ""
        self._facts_at_s = 0.0
        self._ready = False
        self._ever_ready = False
        self._heard_s = 0.0
        self._starving = Starving()
        self._started_s = 0.0
        self._starts = Backoff(FIRST_START_S, MAX_BACKOFF_S)
        self._start_at_s = 0.0
        self._patience = Backoff(START_LIMIT_S, LONGEST_START_S)
        self._start_limit_s = self._patience.next_s()
        self._fatal = ""
        self._note_kept_out()

    def run(self) -> int:
        """Run until a signal that stops it (`signals.STOPPING`).

        Returns:
            Exit status: 0 after an orderly stop, 1 if there is no driver or a clock could not be
            given back.
        """
        signal.set_wakeup_fd(self._wakeup_w, warn_on_full_buffer=False)
        heed(self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        drop_capabilities(keep=(CAP_SYS_ADMIN,))
        watchdog_s = watchdog_period_s() or 1.0
        watchdog_at_s = 0.0
        self._probe = DriverProbe(self._open_driver, self._close_in_child)
        self._say_what_is_left()
        while not self._stopping and not self._fatal:
            now_s = time.monotonic()
            if now_s >= watchdog_at_s:
                notify("WATCHDOG=1")
                watchdog_at_s = now_s + watchdog_s
            self._look_at_place(now_s)
            self._look_after_worker(now_s)
            self._keepers.look(now_s)
            self._tell_worker(now_s)
            self._tell_facts(now_s)
            self._look_at_driver()
            restless = self._worker is None or self._keepers.restless()
            self._wait(RESTLESS_S if restless else min(CALM_S, watchdog_s))
        notify("STOPPING=1")
        status = self._shut_down()
        # The interpreter takes its handlers back as it ends: one signal more must not change how.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        return status

    # --- the worker

    def _look_after_worker(self, now_s: float) -> None:
        if self._worker is None:
            if now_s >= self._start_at_s:
                self._start_worker(now_s)
            return
        self._listen_to_worker(now_s)
        if self._worker.poll() is not None:
            status = self._worker.returncode
            self._replace_worker(now_s)
            self._log(f"the worker ended with status {status}.")
            return
        limit_s = self._silence_s if self._ready else self._start_limit_s
        silent_s = now_s - self._heard_s
        if silent_s > limit_s:
            if self._ready and self._starving.spares(self._worker.pid, self._heard_s, now_s):
                return
            if not self._ready:
                self._start_limit_s = self._patience.next_s()
            self._replace_worker(now_s)
            self._log(f"no sign of life from the worker for {silent_s:.1f} s: it was killed.")

    def _start_worker(self, now_s: float) -> None:
        self._told = {
            uuid: word for uuid, word in self._keepers.states(now_s).items() if word == "restoring"
        }
        config = self._config | {"restoring": sorted(self._told)}
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                ours.send(json.dumps(config).encode())
                handles = [self._place.listener.fileno(), theirs.fileno()]
                self._worker = _spawn("worker", handles, [self._state.lock])
        except OSError as error:  # the host has no descriptor or process left: that passes
            self._start_at_s = now_s + self._starts.next_s()
            self._log(f"the worker cannot be started: {error.strerror}. It is tried again.")
            return
        ours.setblocking(False)
        self._channel = ours
        self._worker_starts += 1
        self._facts, self._facts_at_s = "", 0.0
        self._ready = False
        self._heard_s = self._started_s = now_s
        self._note_kept_out()

    def _listen_to_worker(self, now_s: float) -> None:
        for _ in range(MESSAGES_AT_ONCE):
            if self._channel is None:
                return
            try:
                message = self._channel.recv(MAX_BYTES)
            except OSError:  # nothing more to read, or the worker is gone
                return
            if not message:
                return
            self._hear(message, now_s)

    def _hear(self, message: bytes, now_s: float) -> None:
        self._heard_s = time.monotonic()
        if message == b"ready":
            self._ready = True
            self._patience.reset()
            self._start_limit_s = self._patience.next_s()
            self._become_ready()
        elif message.startswith(b"open "):
            self._open(message[5:].decode(errors="replace"), now_s)

    def _open(self, uuid: str, now_s: float) -> None:
        """Start a GPU's process for the worker, and hand the link over."""
        if self._channel is None:
            return
        try:
            link = self._keepers.hold(uuid, now_s)
        except (LeaseRefusedError, OSError, ValueError) as error:
            say(self._channel, uuid, str(error))
            return
        if link is None:
            self._told[uuid] = "restoring"
            say(self._channel, uuid, "restoring")
            return
        with contextlib.closing(link):
            say(self._channel, uuid, "open", link)
        self._told[uuid] = "open"
        self._state.processes.note(self._pids())

    def _tell_worker(self, now_s: float) -> None:
        """Tell the worker what has changed; what is ready, or forgotten by now, needs no entry."""
        if self._channel is None:
            return
        states = self._keepers.states(now_s)
        for uuid in [*states, *(self._told.keys() - states)]:
            word, before = states.get(uuid, "ready"), self._told.get(uuid, "ready")
            if word in {"open", before} or not say(self._channel, uuid, word):
                continue
            if word == "ready":
                del self._told[uuid]
            else:
                self._told[uuid] = word

    def _tell_facts(self, now_s: float) -> None:
        """Tell the worker what its status cannot know: figures for those who ask, and no more."""
        if self._channel is None or now_s < self._facts_at_s:
            return
        self._facts_at_s = now_s + FACTS_S
        words = self._keepers.states(now_s).values()
        facts = json.dumps(
            {
                "marks": len(self._keepers.marked()),
                "quarantined": sum(word == "restoring" for word in words),
                "worker_starts": self._worker_starts,
                "lines_dropped": dropped_lines(),
            }
        )
        if facts != self._facts and say(self._channel, FACTS, facts):
            self._facts = facts

    def _replace_worker(self, now_s: float) -> None:
        """Kill what is left of the worker: the GPUs' processes see it and give clocks back."""
        self._end_worker()
        pause_s = 0.0
        if now_s - self._started_s > STEADY_S:
            self._starts.reset()
        else:
            pause_s = self._starts.next_s()
        self._start_at_s = time.monotonic() + pause_s

    def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._keepers.orphan()
        if worker is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(KILL_LIMIT_S)
        self._note_kept_out()

    def _look_at_place(self, now_s: float) -> None:
        """See whether clients can still find the socket; a new one takes a new worker."""
        if self._place.renewed(now_s, self._log):
            self._replace_worker(now_s)

    # --- the driver

    def _look_at_driver(self) -> None:
        if self._probe.done:
            return
        self._probe.look()
        if self._probe.problem and self._keepers.marked():  # somebody has to wait for the GPUs
            self._log(self._probe.problem)
            with contextlib.suppress(OSError):  # no process is left: that passes, and it stays done
                self._probe = DriverProbe(
                    self._open_driver, self._close_in_child, pause_s=PROBE_PAUSE_S
                )
        elif self._probe.problem:
            self._log(self._probe.problem)
            self._fatal = self._probe.problem
        self._become_ready()

    def _become_ready(self) -> None:
        if self._ready and self._probe.done and not self._fatal and not self._ever_ready:
            self._ever_ready = True
            notify("READY=1")

    # --- processes

    def _pids(self) -> list[int]:
        workers = [self._worker.pid] if self._worker is not None else []
        return [*workers, *self._keepers.pids()]

    def _close_in_child(self) -> None:
        for handle in self._keepers.keep_out:
            with contextlib.suppress(OSError):
                os.close(handle)

    def _note_kept_out(self) -> None:
        """What the GPUs' processes must not keep open: they may outlive this one for a moment."""
        listener = self._place.listener.fileno()
        handles = [listener, self._state.lock, self._wakeup_r, self._wakeup_w]
        if self._channel is not None:
            handles.append(self._channel.fileno())
        self._keepers.keep_out = handles
        self._state.processes.note(self._pids())

    # --- start and stop

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _wait(self, seconds: float) -> None:
        handles = [self._wakeup_r]
        if self._channel is not None:
            handles.append(self._channel.fileno())
        if self._wakeup_r in readable(handles, seconds):
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup_r, 512)

    def _shut_down(self) -> int:
        self._place.leave()
        if self._worker is not None:
            self._worker.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._worker.wait(STOP_LIMIT_S)
        self._end_worker()
        self._keepers.settle(STOP_LIMIT_S)
        self._keepers.end()
        self._probe.end()
        left = self._say_what_is_left()
        self._state.processes.note([])
        self._place.listener.close()
        return 1 if left or self._fatal else 0

    def _say_what_is_left(self) -> list[str]:
        left = self._keepers.marked()
        if left:
            self._log(f"not at default clocks yet: {', '.join(left)}.")
        return left


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
