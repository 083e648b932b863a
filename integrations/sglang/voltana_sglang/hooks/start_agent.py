"""Starts the agent of an instance from the engine, where the configuration says so."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger("sglang.voltana")


def start_agent(config: Path, instance: str, state: Path) -> None:
    """Start an agent that ends with this engine; a second one of the instance ends at once.

    Args:
        config: The configuration file.
        instance: Name of the instance.
        state: Folder for its log.

    Raises:
        OSError: If it cannot be started.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "voltana_sglang", "agent", "--config", str(config.resolve())]
    command += ["--instance", instance, "--until-pid", str(os.getpid())]
    path = state / f"{instance}.agent.log"
    with path.open("ab") as log:
        agent = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a signal to the engine's group is none to the agent
        )
    _log.info("voltana: agent of %s started as process %d, log %s", instance, agent.pid, path)
