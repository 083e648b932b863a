"""The processes of a rehearsal: daemon, launch with all that it starts, and the meter."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

from voltana.errors import VoltanaError
from voltana.rehearsal.faults import writers
from voltana.rehearsal.priority import keep_niceness
from voltana.rehearsal.stage import TOKEN_VARIABLE
from voltana.serving.launch.child_process import ChildProcess, ProcessSpec
from voltana.serving.launch.instances import in_url
from voltana.serving.launch.supervise import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from voltana.rehearsal.port import Rehearsed
    from voltana.rehearsal.stage import Stage
    from voltana.serving.config import Config
    from voltana.serving.launch.supervise import Reports

START_LIMIT_S = 180.0
METER_S = 0.1
"""Between two readings of the meter, on the wall."""

_GRACE_S = 60.0
_POLL_S = 0.05


class Company:
    """Starts everything, and ends it without an orphan; a context manager.

    Args:
        stage: The files.
        config: The configuration.
        dialect: The engine's.
        say: Told what goes on.
    """

    def __init__(
        self,
        stage: Stage,
        config: Config,
        dialect: Rehearsed,
        say: Reports,
    ) -> None:
        self._stage = stage
        self._say = say
        router = config.router
        self.url = f"http://{in_url(router.host)}:{router.port}"
        self._lost_daemon = False
        self._daemon = self._supervisor(self._daemon_process())
        self._cluster = self._supervisor(self._launch_process(dialect))
        self._meter = self._supervisor(self._meter_process())

    def __enter__(self) -> Company:
        try:
            self._daemon.start(lambda: False)
            self._await_socket(self._stage.socket)
            self._cluster.start(lambda: False)
            # A launch lists its agents once all that it started is ready. That its router's port
            # answers proves less: another cluster may listen there.
            self._await(self._stage.agents.exists, self._cluster, "the cluster does not start")
            self._say("cluster", f"ready: {self.url}")
            self._meter.start(lambda: False)
            self._await_readings()
            self._keep_niceness()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def replace_daemon(self, kill: Callable[[], None], after_s: float) -> None:
        """Have the daemon killed and start it again, as an init does with one that has ended.

        Args:
            kill: Kills it.
            after_s: How long the init waits.
        """
        self._lost_daemon = True
        kill()
        time.sleep(after_s)
        self._daemon.shut_down()
        self._stage.socket.unlink(missing_ok=True)
        self._daemon = self._supervisor(self._daemon_process())
        self._daemon.start(lambda: False)
        self._await_socket(self._stage.socket)
        self._lost_daemon = False

    def agents(self) -> list[dict[str, Any]]:
        """What the agents say of themselves; those that do not answer are left out."""
        token = self._stage.environment[TOKEN_VARIABLE]
        found = []
        for address in json.loads(self._stage.agents.read_text(encoding="utf-8")):
            asked = urllib.request.Request(
                f"{address}/status", headers={"Authorization": f"Bearer {token}"}
            )
            try:
                with urllib.request.urlopen(asked, timeout=5.0) as answer:
                    found.append(json.load(answer))
            except OSError:
                continue
        return found

    def check(self) -> None:
        """Check that everything runs which was started here.

        Raises:
            VoltanaError: If something has ended by itself, with its last words.
        """
        daemon = () if self._lost_daemon else self._daemon.children
        for child in (*daemon, *self._cluster.children, *self._meter.children):
            if child.status() is not None:
                raise self._has_ended(child, f"{child.spec.name} has ended")

    def _keep_niceness(self) -> None:
        """Whoever starts a rehearsal with a niceness means all of it."""
        for pid, log in writers():
            if log.parent == self._stage.logs:
                keep_niceness(pid)

    def _has_ended(self, child: ChildProcess, what: str) -> VoltanaError:
        """What to say of it; a command of ours ends with a line that says what to do."""
        words = child.last_words()
        last = words.rpartition("\n")[2]
        return VoltanaError(f"{what}. {last if last.startswith('voltana') else words}")

    def _end(self) -> None:
        self._meter.shut_down()
        self._cluster.shut_down()
        self._daemon.shut_down()

    def _spec(self, name: str, *command: str) -> ProcessSpec:
        return ProcessSpec(
            name=name,
            kind=name,
            command=(sys.executable, "-m", *command),
            environment=tuple(self._stage.environment.items()),
            grace_s=_GRACE_S,
        )

    def _supervisor(self, process: ProcessSpec) -> Supervisor:
        return Supervisor([[process]], self._stage.logs, self._say, START_LIMIT_S)

    def _daemon_process(self) -> ProcessSpec:
        return self._spec(
            "daemon", "voltana_actuatord.daemon.command", "--config", str(self._stage.daemon)
        )

    def _launch_process(self, dialect: Rehearsed) -> ProcessSpec:
        return self._spec("launch", dialect.program, "launch", str(self._stage.cluster))

    def _meter_process(self) -> ProcessSpec:
        return self._spec(
            "meter", "voltana.rehearsal.meter", str(self._stage.readings), str(METER_S)
        )

    def _await_socket(self, path: Path) -> None:
        self._await(path.exists, self._daemon, "the daemon does not listen")

    def _await_readings(self) -> None:
        self._await(
            lambda: self._stage.readings.exists() and self._stage.readings.stat().st_size > 0,
            self._meter,
            "the meter reads nothing",
        )

    def _await(self, condition: Callable[[], bool], who: Supervisor, what: str) -> None:
        ends_s = time.monotonic() + START_LIMIT_S
        while not condition():
            ended = [child for child in who.children if child.status() is not None]
            if ended:
                raise self._has_ended(ended[0], what)
            if time.monotonic() > ends_s:
                raise VoltanaError(f"{what} within {START_LIMIT_S:g} s on this machine.")
            time.sleep(_POLL_S)
