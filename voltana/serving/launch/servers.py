"""What the launcher must know of an engine: the port between it and an engine's launch plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.serving.launch.child_process import ProcessSpec
    from voltana.serving.launch.config import LaunchTable
    from voltana.serving.launch.instances import Instance
    from voltana.serving.launch.ports import Port


class ServerPlan(Protocol):
    """How the servers of an engine are started.

    Attributes:
        program: Module whose commands ``agent`` and ``router`` speak this engine's dialect.
    """

    program: str

    def check(self, table: LaunchTable) -> None:
        """Check what a server would only say at the end of a long log.

        Raises:
            ConfigError: If the engine or the model is not there.
        """
        ...

    def server(self, instance: Instance, table: LaunchTable, config: Path) -> ProcessSpec:
        """How one is started, with the plugin configured in it."""
        ...

    def ports(self, instance: Instance) -> tuple[Port, ...]:
        """The ports that it listens on."""
        ...
