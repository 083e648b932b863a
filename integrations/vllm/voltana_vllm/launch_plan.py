"""How the servers of a launch are started with vLLM: its arguments, variables and ports."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from voltana.serving.launch.child_process import ProcessSpec
from voltana.serving.launch.ports import Port
from voltana.serving.launch.servers import check_environment, on_gpus
from voltana_vllm import CONFIG_VARIABLE, INSTANCE_VARIABLE, ROLE_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.serving.launch.config import LaunchTable
    from voltana.serving.launch.instances import Instance

TRANSFER = "--kv-transfer-config"

KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}

SIDE_CHANNEL_HOST = "VLLM_NIXL_SIDE_CHANNEL_HOST"
SIDE_CHANNEL_PORT = "VLLM_NIXL_SIDE_CHANNEL_PORT"

_ANYWHERE = frozenset({"0.0.0.0", "::"})


class VllmServers:
    """vLLM behind the launcher's port `voltana.serving.launch.servers.ServerPlan`."""

    program = "voltana_vllm"

    def check(self, table: LaunchTable) -> None:
        """Check that vLLM and the model are there.

        Raises:
            ConfigError: If the environment of the servers lacks vLLM or the plugin, or the model's
                folder is not there.
        """
        check_environment(table, "vLLM", "vllm", self.program)

    def server(self, instance: Instance, table: LaunchTable, config: Path) -> ProcessSpec:
        """How a server is started, with the plugin configured in it."""
        own = {
            CONFIG_VARIABLE: str(config.resolve()),
            INSTANCE_VARIABLE: instance.name,
            ROLE_VARIABLE: instance.role,
        }
        if instance.role != "unified":
            own[SIDE_CHANNEL_PORT] = str(instance.transfer_port)
            if instance.host not in _ANYWHERE:
                own[SIDE_CHANNEL_HOST] = instance.host
        own = table.environment | own | on_gpus(instance)
        python = table.interpreter or sys.executable
        # Not the command `vllm`, which looks for a distribution of that name.
        module = "vllm.entrypoints.openai.api_server"
        return ProcessSpec(
            name=instance.name,
            kind=instance.role,
            command=(python, "-m", module, *_arguments(instance, table)),
            environment=tuple(sorted(own.items())),
            ready_url=f"{instance.url}/health",
        )

    def ports(self, instance: Instance) -> tuple[Port, ...]:
        """Where a server listens; one of a pair for transfers, too."""
        key = "launch.first_port"
        own = Port(instance.port, key, instance.name)
        if instance.role == "unified":
            return (own,)
        return own, Port(instance.transfer_port, key, f"{instance.name}'s transfers")


def _arguments(instance: Instance, table: LaunchTable) -> list[str]:
    arguments = ["--model", table.model_path, "--host", instance.host]
    arguments += ["--port", str(instance.port)]
    if table.tensor_parallel > 1:
        arguments += ["--tensor-parallel-size", str(table.tensor_parallel)]
    by_role = {"prefill": table.prefill_arguments, "decode": table.decode_arguments}
    given = [*table.arguments, *by_role.get(instance.role, ())]
    names_it = any(word.partition("=")[0] == TRANSFER for word in given)
    if instance.role in KV_ROLES and not names_it:
        transfer = {"kv_connector": "NixlConnector", "kv_role": KV_ROLES[instance.role]}
        arguments += [TRANSFER, json.dumps(transfer)]
    return arguments + given
