"""How a rehearsal starts servers: with production's own command lines, of another program."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

from voltana_sglang.launch_plan import SglangServers

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.serving.launch.child_process import ProcessSpec
    from voltana.serving.launch.config import LaunchTable
    from voltana.serving.launch.instances import Instance


SERVER = "voltana_sglang.rehearsal.server"


class VirtualServers(SglangServers):
    """Virtual servers behind the launcher's port; agents and router are production's."""

    def check(self, table: LaunchTable) -> None:
        """Nothing of SGLang need be there, nor the model."""

    def server(self, instance: Instance, table: LaunchTable, config: Path) -> ProcessSpec:
        """As SGLang is started, with all its arguments."""
        spec = super().server(instance, table, config)
        _, _, _, *arguments = spec.command  # the interpreter, -m, the server
        command = (sys.executable, "-m", SERVER, *arguments)
        return dataclasses.replace(spec, command=command)
