"""Starts and ends the servers of a run with the launcher's own parts, the plugin in them."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.gpu.engine_times import OPTIONS, EngineTimes
from voltana.serving.launch.allocation import allocate, visible_uuids
from voltana.serving.launch.command import read_launch
from voltana.serving.launch.instances import Instance, instances
from voltana.serving.launch.plan import agent_process
from voltana.serving.launch.ports import check_ports
from voltana.serving.launch.supervise import Supervisor
from voltana_sglang.config import SglangConfig
from voltana_sglang.launch_plan import SglangServers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.gpu.settings import Settings
    from voltana.serving.launch.child_process import ProcessSpec
    from voltana.serving.launch.config import LaunchTable

CONFIGURATION = "gpu.toml"
INSTANCE = "unified-0"
"""What the launcher calls the only server for both phases."""


class Servers:
    """The servers of a run, one at a time.

    Args:
        settings: The run.

    Raises:
        ConfigError: If SGLang, the model, a GPU or a port is not to be had.
    """

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.out.resolve()
        self.config = self.folder / CONFIGURATION
        self.times: EngineTimes | None = None
        further: tuple[str, ...] = ()
        address = f"ipc://{tempfile.mkdtemp(prefix='voltana-')}/times"
        if settings.engine_times:
            self.times, further = EngineTimes(address), (*OPTIONS, address)
        self.config.write_text(
            settings.configuration(INSTANCE, f"{address}.0", *further), encoding="utf-8"
        )
        read = read_launch(self.config, SglangConfig)
        assert read.launch is not None
        self._read, self._table = read, read.launch
        self._engine = SglangServers()
        self._engine.check(self._table)
        gpus = allocate(self._table, os.environ, visible_uuids())
        (self._instance,) = instances(self._table, gpus)
        check_ports(self._engine, [self._instance], read.router)

    @property
    def rings(self) -> Path:
        """Where the plugin writes what it measures."""
        return self.folder / self._read.agent.rings

    @contextlib.contextmanager
    def decode_only(self, environment: dict[str, str] | None = None) -> Iterator[Instance]:
        """A server that decodes alone: transfers are faked, so that no prefill gets in the way.

        Args:
            environment: Variables of the server on top of the others.
        """
        alone = replace(self._instance, role="decode", name="decode")
        table = self._with(environment or {})
        with self._running([[self._engine.server(alone, table, self.config)]]):
            yield alone

    @contextlib.contextmanager
    def with_agent(self, environment: dict[str, str]) -> Iterator[tuple[Instance, int]]:
        """A server for both phases, and the process id of its agent, which is in dry run.

        Args:
            environment: Variables of the server on top of the others.
        """
        table = self._with(environment)
        agent = agent_process(
            self._engine.program, self._instance, self.config, self._read.agent, dry_run=True
        )
        server = self._engine.server(self._instance, table, self.config)
        with self._running([[server], [agent]]) as supervisor:
            yield self._instance, supervisor.children[-1].pid

    def _with(self, environment: dict[str, str]) -> LaunchTable:
        whole = self._table.environment | environment
        return self._table.model_copy(update={"environment": whole})

    @contextlib.contextmanager
    def _running(self, stages: list[list[ProcessSpec]]) -> Iterator[Supervisor]:
        logs = self.folder / "logs"
        supervisor = Supervisor(stages, logs, say, self._table.start_timeout_s)
        try:
            supervisor.start(lambda: False)
            yield supervisor
        finally:
            supervisor.shut_down()


def say(name: str, text: str) -> None:
    """Tell how far the run is, on standard error."""
    sys.stderr.write(f"{name:<12} {text}\n")
    sys.stderr.flush()
