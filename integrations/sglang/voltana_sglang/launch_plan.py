"""How the servers of a launch are started with SGLang: its arguments, variables and ports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.errors import ConfigError, invalid
from voltana.serving.launch.allocation import BY_BUS, ORDER, VISIBLE
from voltana.serving.launch.child_process import ProcessSpec
from voltana.serving.launch.ports import Port
from voltana_sglang import CONFIG_VARIABLE, INSTANCE_VARIABLE

if TYPE_CHECKING:
    from voltana.serving.launch.config import LaunchTable
    from voltana.serving.launch.instances import Instance

_FIND = (
    "import importlib.util as u, sys;"
    "sys.exit(' and '.join(n for n in ('sglang', 'voltana_sglang') if u.find_spec(n) is None) or 0)"
)
_FIND_TIMEOUT_S = 60.0


class SglangServers:
    """SGLang behind the launcher's port `voltana.serving.launch.servers.ServerPlan`."""

    program = "voltana_sglang"

    def check(self, table: LaunchTable) -> None:
        """Check that SGLang and the model are there.

        Raises:
            ConfigError: If the environment of the servers lacks SGLang or the plugin, or the
                model's folder is not there.
        """
        python = table.interpreter or sys.executable
        try:
            found = subprocess.run(
                [python, "-c", _FIND],
                capture_output=True,
                text=True,
                timeout=_FIND_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise invalid(
                "launch.interpreter", python, "a Python that runs", f"It does not: {error}."
            ) from None
        if found.returncode:
            missing = found.stderr.strip().splitlines()[-1:] or ["nothing can be imported"]
            raise ConfigError(
                f"not installed in the environment of {python}: {missing[0]}. Must be, for launch "
                "starts servers with it. Install voltana-sglang into the environment of your "
                "SGLang, and name its Python as launch.interpreter."
            )
        path = table.model_path
        if path.startswith(("/", "./", "../", "~")) and not Path(path).exists():
            raise invalid(
                "launch.model_path",
                path,
                "a folder that is there, or a name on the Hugging Face Hub",
                "Check the path; '~' is not expanded.",
            )

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
        if instance.gpus:
            own |= {VISIBLE: ",".join(gpu.cuda for gpu in instance.gpus), ORDER: BY_BUS}
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
