"""Workers on a Ray cluster, wherever its nodes are.

Records are written by the program that asked alone, so that a node may die at any time: what it had
given back is kept, and what it still ran is given to another node. Scenarios run one a core.
"""

from __future__ import annotations

import importlib
import socket
import sys
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from voltana.errors import ConfigError, invalid
from voltana.evaluation.sweep.code import code_digest
from voltana.evaluation.sweep.local import ONE_THREAD
from voltana.evaluation.sweep.work import Outcome, Task, attempt
from voltana.extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ATTEMPTS = 4
"""Times that a task is given to the cluster: nodes go away more often than processes die."""

PATIENCE_S = 120.0
"""How long a cluster may be without a core before that is an error; it may be growing."""

CONNECT_S = 5.0
"""How long its address may take to answer."""

AUTO = "auto"
_KEPT = "What has ended is kept: give the same command again when the cluster is back."
_LOOK_S = 2.0
_AHEAD = 2
"""Tasks handed over for each core: the next one waits there while one runs."""


class RayWorkers:
    """Runs tasks on a Ray cluster.

    Args:
        address: ``auto`` (the cluster that this machine is a node of), HOST:PORT of the head where
            this machine is a node, or ray://HOST:PORT of its client server from anywhere.
        count: Scenarios at once; None takes one a core of the cluster.
        patience_s: See `PATIENCE_S`.

    Raises:
        ConfigError: If the address or the count is none, or nothing answers there.
        MissingExtraError: If Ray is not installed.
    """

    def __init__(
        self, address: str, count: int | None = None, *, patience_s: float = PATIENCE_S
    ) -> None:
        require("ray", "a sweep on Ray")
        if count is not None and count < 1:
            raise invalid("workers", count, "at least 1", "Leave it out for one a core.")
        _check_reachable(address)
        self._address = address
        self._count = count
        self._patience_s = patience_s

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """See `voltana.evaluation.sweep.work.Workers.run`."""
        if not tasks:
            return
        ray = importlib.import_module("ray")
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray)
        try:
            yield from self._started(ray, tasks).outcomes()
        finally:
            if ours:
                ray.shutdown()

    def _started(self, ray: Any, tasks: Sequence[Task]) -> _Run:
        head = self._address.removeprefix("ray://")
        if head == AUTO:
            head = ray.get_runtime_context().gcs_address
        return _Run(ray, tasks, head, self._count, self._patience_s)

    def _connect(self, ray: Any) -> None:
        try:
            ray.init(
                address=self._address,
                configure_logging=False,
                log_to_driver=False,
                runtime_env={"env_vars": ONE_THREAD},
            )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"ray = {self._address!r} cannot be used: {reason} "
                "Check the address, and that Python, Ray and voltana are the same there."
            ) from None


class _Run:
    """One sweep on a cluster that is connected to."""

    def __init__(
        self, ray: Any, tasks: Sequence[Task], head: str, count: int | None, patience_s: float
    ) -> None:
        self._ray = ray
        self._waiting = deque(tasks)
        self._count = count
        self._patience_s = patience_s
        self._attempts = dict.fromkeys((task.key for task in tasks), 0)
        self._running: dict[Any, Task] = {}
        self._head = head
        self._looked_s = -_LOOK_S
        self._cores = 0
        self._had_cores_s = monotonic()
        # Deaths are counted here, so that Ray is to repeat nothing by itself.
        self._remote = ray.remote(num_cpus=1, max_retries=0)(_attempt_there)

    def outcomes(self) -> Iterator[Outcome]:
        """Hand tasks over and give back what became of them."""
        while self._waiting or self._running:
            self._look()
            most = self._count or _AHEAD * self._cores
            while self._waiting and len(self._running) < max(most, 1):
                task = self._waiting.popleft()
                self._attempts[task.key] += 1
                self._running[self._remote.remote(task, code_digest(), tuple(sys.path))] = task
            ready, _ = self._ray.wait(list(self._running), timeout=_LOOK_S)
            for reference in ready:
                outcome = self._received(reference)
                if outcome is not None:
                    yield outcome

    def _look(self) -> None:
        """Count the cores now and then; refuse to wait for ever where nothing can run."""
        if monotonic() - self._looked_s < _LOOK_S:
            return
        # Ray itself would find out after a minute, and end this process.
        if not _answers(self._head):
            raise ConfigError(
                f"the head of the Ray cluster ({self._head}) does not answer any more. {_KEPT}"
            )
        self._cores = int(self._ray.cluster_resources().get("CPU", 0))
        self._looked_s = monotonic()
        if self._cores:
            self._had_cores_s = self._looked_s
        elif self._looked_s - self._had_cores_s > self._patience_s:
            raise ConfigError(
                f"the Ray cluster has had no core for {self._patience_s:g} s: its nodes are gone. "
                f"{_KEPT}"
            )

    def _received(self, reference: Any) -> Outcome | None:
        """What a node sent; None if it died and its task has another attempt."""
        task = self._running.pop(reference)
        faults = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(reference)
        except (faults.RayTaskError, faults.RuntimeEnvSetupError) as error:
            return Outcome(key=task.key, error=f"a node of Ray cannot run it: {_last_line(error)}")
        except faults.RayError as error:
            if self._attempts[task.key] < ATTEMPTS:
                self._waiting.appendleft(task)
                return None
            return Outcome(
                key=task.key,
                error=f"its process or its node died, {ATTEMPTS} times: {_last_line(error)} "
                "If memory is short, run fewer scenarios at once (--workers) or shorter ones.",
            )
        return outcome


def _attempt_there(task: Task, code: str, path: tuple[str, ...]) -> Outcome:
    """Run a task on a node, if it has the code of who asks.

    Args:
        task: What to run.
        code: Digest of the code that asks.
        path: Where it imports from: a user's own policies may lie there.
    """
    sys.path.extend(entry for entry in path if entry not in sys.path)
    if code_digest() != code:
        return Outcome(
            key=task.key,
            error=f"node {socket.gethostname()} has other code of voltana, whose figures do not "
            "compare. Install the same on every node.",
        )
    return attempt(task)


def _check_reachable(address: str) -> None:
    """Say at once what Ray would find out after a minute, in many lines.

    Raises:
        ConfigError: If the address is none or nothing answers there.
    """
    if address == AUTO:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise invalid(
            "ray", address, "auto, HOST:PORT or ray://HOST:PORT", "'ray start --head' prints it."
        )
    if not _answers(address.removeprefix("ray://")):
        raise ConfigError(
            f"ray = {address!r} cannot be reached: nothing answers there within {CONNECT_S:g} s. "
            "Check the address, and that the cluster runs ('ray status')."
        )


def _answers(address: str) -> bool:
    """Whether something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip().rstrip(".") + "."
