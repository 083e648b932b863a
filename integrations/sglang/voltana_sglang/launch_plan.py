"""How the servers of a launch are started with SGLang: its arguments, variables and ports."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from voltana.serving.launch.child_process import ProcessSpec
from voltana.serving.launch.ports import Port
from voltana.serving.launch.servers import check_environment, on_gpus
from voltana_sglang import CONFIG_VARIABLE, INSTANCE_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.serving.launch.config import LaunchTable
    from voltana.serving.launch.instances import Instance


class SglangServers:
    """SGLang behind the launcher's port `voltana.serving.launch.servers.ServerPlan`."""

    program = "voltana_sglang"

    def check(self, table: LaunchTable) -> None:
        """Check that SGLang and the model are there.

        Raises:
            ConfigError: If the environment of the servers lacks SGLang or the plugin, or the
                model's folder is not there.
        """
        check_environment(table, "SGLang", "sglang", self.program)

    def server(self, instance: Instance, table: LaunchTable, config: Path) -> ProcessSpec:
        """How a server is started, with the plugin configured in it."""
        arguments = ["--model-path", table.model_path, "--host", instance.host]
        arguments += ["--port", str(instance.port)]
        if table.tensor_parallel > 1:
            arguments += ["--tp-size", str(table.tensor_parallel)]
        arguments += _role_arguments(instance, table)
        own = table.environment | {
            CONFIG_VARIABLE: str(config.resolve()),
            INSTANCE_VARIABLE: instance.name,
        }
        own |= on_gpus(instance)
        python = table.interpreter or sys.executable
        return ProcessSpec(
            name=instance.name,
            kind=instance.role,
            command=(python, "-m", "sglang.launch_server", *arguments, *table.arguments),
            environment=tuple(sorted(own.items())),
            ready_url=f"{instance.url}/health",
        )

    def ports(self, instance: Instance) -> tuple[Port, ...]:
        """Where a server listens; a prefill server for transfers, too."""
        key = "launch.first_port"
        own = Port(instance.port, key, instance.name)
        if instance.role != "prefill":
            return (own,)
        return own, Port(instance.transfer_port, key, f"{instance.name}'s transfers")


def _role_arguments(instance: Instance, table: LaunchTable) -> list[str]:
    if instance.role == "unified":
        return []
    arguments = ["--disaggregation-mode", instance.role]
    if table.ib_device is not None:
        arguments += ["--disaggregation-ib-device", table.ib_device]
    if instance.role == "prefill":
        arguments += ["--disaggregation-bootstrap-port", str(instance.transfer_port)]
        return [*arguments, *table.prefill_arguments]
    return [*arguments, *table.decode_arguments]
