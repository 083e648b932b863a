"""Starts the agent of an instance from the engine, where the configuration says so."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from voltana_sglang.hooks.settings import PluginSettings

LAST_WORDS_BYTES = 500

_log = logging.getLogger("sglang.voltana")


def start_agent(config: Path, instance: str, settings: PluginSettings) -> None:
    """Start an agent that ends with this engine; a second one of the instance ends at once.

    Where it cannot be started, or ends by itself, that is logged and the engine serves on; nothing
    here waits for it or raises.

    Args:
        config: The configuration file.
        instance: Name of the instance, whose ring exists: the agent ends with that.
        settings: Where the agent lives.
    """
    interpreter = settings.interpreter or (sys.executable,)
    command = [*interpreter, "-m", "voltana_sglang", "agent", "--config", str(config.resolve())]
    command += ["--instance", instance, "--until-engine-ends"]
    path = settings.state / f"{instance}.agent.log"
    try:
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("ab") as log:
            agent = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a signal to the engine's group is none to the agent
            )
    except (OSError, ValueError) as error:
        _log.error(
            "voltana: no agent of %s: %s cannot be started (%s); the engine serves on at the "
            "default clocks. Set agent.interpreter to the Python that has voltana-sglang[serving].",
            instance, " ".join(interpreter), error,
        )  # fmt: skip
        return
    _log.info("voltana: agent of %s started as process %d, log %s", instance, agent.pid, path)
    # It waits in the background, for a broken environment shows only when the agent has ended.
    threading.Thread(
        target=_report_end, args=(agent, instance, path), name="voltana-agent", daemon=True
    ).start()


def _report_end(agent: subprocess.Popen[bytes], instance: str, log: Path) -> None:
    status = agent.wait()
    _log.error(
        "voltana: the agent of %s ended with status %d; the engine serves on at the default "
        "clocks, unless another agent serves it. Log %s ends: %s",
        instance, status, log, _last_words(log),
    )  # fmt: skip


def _last_words(log: Path) -> str:
    try:
        text = log.read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace").strip()
    except OSError:
        return ""
    return text.splitlines()[-1] if text else ""
