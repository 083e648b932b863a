"""What the launcher must know of an engine: the port between it and an engine's launch plan."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from voltana.errors import ConfigError, invalid
from voltana.serving.launch.allocation import BY_BUS, ORDER, VISIBLE

if TYPE_CHECKING:
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


_FIND = (
    "import importlib.util as u, sys;"
    "sys.exit(' and '.join(n for n in sys.argv[1:] if u.find_spec(n) is None) or 0)"
)
_FIND_TIMEOUT_S = 60.0


def check_environment(table: LaunchTable, engine: str, module: str, program: str) -> None:
    """Check that an engine, its plugin and the model are where servers will look for them.

    Args:
        table: The launch.
        engine: The engine as people write it.
        module: Its package.
        program: The package of its integration.

    Raises:
        ConfigError: If the environment of the servers lacks the engine or the plugin, or the
            model's folder is not there.
    """
    python = table.interpreter or sys.executable
    try:
        found = subprocess.run(
            [python, "-c", _FIND, module, program],
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
            f"starts servers with it. Install {program.replace('_', '-')} into the environment of "
            f"your {engine}, and name its Python as launch.interpreter."
        )
    path = table.model_path
    if path.startswith(("/", "./", "../", "~")) and not Path(path).exists():
        raise invalid(
            "launch.model_path",
            path,
            "a folder that is there, or a name on the Hugging Face Hub",
            "Check the path; '~' is not expanded.",
        )


def on_gpus(instance: Instance) -> dict[str, str]:
    """Variables that give a server its GPUs; none where it has none."""
    if not instance.gpus:
        return {}
    return {VISIBLE: ",".join(gpu.cuda for gpu in instance.gpus), ORDER: BY_BUS}
