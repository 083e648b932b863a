"""A daemon under test, and the init that restarts it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.actuation.driver import uuid_of
from voltana.errors import ActuatorError
from voltana.values import Command, Domain
from voltana_actuatord.client import ActuatorProcess
from voltana_actuatord.connecting import connect

if TYPE_CHECKING:
    from tests.actuation.driver import Machine

DAEMON = "voltana_actuatord.daemon.command"
WORKER = b"voltana_actuatord.daemon.worker"

WATCHDOG_S = 1.5
"""As systemd's: half as long again as what the daemon is told, and from READY=1 on."""

START_TIMEOUT_S = 30.0
"""Until READY=1, where systemd waits for 90 s: a start on a host without a free core takes its
time, and an init that has less patience ends one start after the other."""


def run_to_end(machine: Machine, config: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """A daemon that is to end by itself, as one that refuses to start, and what it said."""
    return subprocess.run(
        [sys.executable, "-m", DAEMON, "--config", str(config), *flags],
        env=machine.environment(),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


class Daemon:
    """``voltana-actuatord`` on a fake machine; a context manager that ends it.

    Args:
        folder: For its socket, configuration and state.
        machine: The machine.
        allow: TOML of the ``[[allow]]`` rules; by default this user may do everything.
        head: Lines before them.
        stderr: Descriptor for its log; None takes a file.
        start: Whether to start it now, rather than by `begin`.
        claims: Where daemons of one host keep which has which GPU; by default the same for all
            daemons of a machine.
        init: Whether to restart it whenever it ends or its watchdog falls silent, as systemd does.
        nohup: Whether it is started as by nohup.
    """

    def __init__(
        self,
        folder: Path,
        machine: Machine,
        *,
        allow: str = "",
        head: str = "",
        claims: Path | None = None,
        init: bool = False,
        stderr: int | None = None,
        start: bool = True,
        nohup: bool = False,
    ) -> None:
        self.folder = folder
        self.socket = folder / "actuator.sock"
        self.config = folder / "actuatord.toml"
        self.journal = folder / "state" / "journal"
        self.machine = machine
        rules = allow or f"[[allow]]\nusers = [{os.geteuid()}]\nmax_lease_s = 10.0\n"
        self.config.write_text(
            f'socket = "{self.socket}"\nstate_dir = "{folder / "state"}"\n'
            f'claims_dir = "{claims or machine.path.parent}"\n{head}\n{rules}'
        )
        self.log = folder / "daemon.log"
        self.log.touch()
        self._stderr = stderr
        self.starts: list[float] = []
        self._init = init
        # Whatever the tests themselves were started with.
        self._hangup = "--ignore-signal=HUP" if nohup else "--default-signal=HUP"
        self._ending = threading.Event()
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(folder / "notify.sock"))
        self._notify.settimeout(0.02)
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        if start:
            self.begin()

    def begin(self) -> None:
        """Start it."""
        self.process = self._start()
        if self._init:
            self._keeper.start()

    def __enter__(self) -> Daemon:
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(self, timeout_s: float = 15.0) -> None:
        """Wait until a client is answered."""
        ends_s = time.monotonic() + timeout_s
        while True:
            try:
                with self.connect() as probe:
                    probe.send(b"VA\x01\x04")
                    if probe.recv(65536):
                        return
            except OSError:
                pass
            assert time.monotonic() < ends_s, f"no daemon:\n{self.log.read_text()}"
            assert self._init or self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM, and wait; the exit status."""
        self._ending.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        status = self.process.wait(15)
        self._notify.close()
        return status

    def connect(self) -> socket.socket:
        """A raw connection."""
        return connect(str(self.socket), 5.0)

    def client(self, *devices: int, lease_s: float = 2.0, patience_s: float = 10.0) -> Client:
        """A client that holds a lease; retries while GPUs are being restored."""
        ends_s = time.monotonic() + patience_s
        while True:
            try:
                return Client(self, devices or (0,), lease_s)
            except ActuatorError:
                if time.monotonic() > ends_s:
                    raise
                time.sleep(0.02)

    def worker(self) -> int:
        """Process id of the worker; 0 if there is none now."""
        for child in _children(self.process.pid):
            with contextlib.suppress(OSError):
                if WORKER in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child
        return 0

    def holders(self) -> list[int]:
        """Process ids of the GPUs' processes."""
        return [pid for pid in _children(self.process.pid) if pid != self.worker()]

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts.append(time.monotonic())
        self.heard_s = time.monotonic()
        self._said_ready = False
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [
                    "env",
                    self._hangup,
                    sys.executable,
                    "-m",
                    DAEMON,
                    "--config",
                    str(self.config),
                ],
                env=self.machine.environment(
                    NOTIFY_SOCKET=str(self.folder / "notify.sock"), WATCHDOG_USEC="1000000"
                ),
                stderr=log if self._stderr is None else self._stderr,
                start_new_session=True,
            )

    def _keep(self) -> None:
        """What systemd does with Restart=always, WatchdogSec=1 and KillMode=control-group."""
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                if self._notify.recv(256) == b"READY=1":
                    self._said_ready = True
                self.heard_s = time.monotonic()
            limit_s = WATCHDOG_S if self._said_ready else START_TIMEOUT_S
            if time.monotonic() - self.heard_s > limit_s:
                self.process.kill()
            if self.process.poll() is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGTERM)
                    time.sleep(0.05)
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process = self._start()


class Client:
    """An `ActuatorProcess` with a running step counter.

    Args:
        daemon: Where to connect.
        devices: The domain, as the node counts.
        lease_s: Its lease.
    """

    def __init__(self, daemon: Daemon, devices: tuple[int, ...], lease_s: float) -> None:
        self.domain = Domain(name=f"d{devices[0]}", devices=tuple(map(uuid_of, devices)))
        self.actuator = ActuatorProcess(self.domain, socket_path=daemon.socket, lease_s=lease_s)
        self.lease_s = lease_s
        self.steps = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.actuator.close()

    def set(self, clock_mhz: float) -> None:
        """One control step."""
        self.actuator.apply(
            Command(
                domain=self.domain, clock_mhz=clock_mhz, sequence=self.steps, lease_s=self.lease_s
            )
        )
        self.steps += 1

    def reach(self, clock_mhz: float, timeout_s: float = 10.0) -> bool:
        """Step until the clock is there; a starved machine may lose a step or a worker."""
        ends_s = time.monotonic() + timeout_s
        while time.monotonic() < ends_s:
            self.set(clock_mhz)
            retry_s = time.monotonic() + 1.0
            while time.monotonic() < retry_s:
                status = self.actuator.status()
                if status.clock_mhz == clock_mhz and status.sequence == self.steps - 1:
                    return True
                time.sleep(0.002)
        return False


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]
