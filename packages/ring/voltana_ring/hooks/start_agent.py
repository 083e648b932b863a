"""Starts the agent of an instance from the engine, where the configuration says so."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from voltana_ring.hooks.settings import PluginSettings

LAST_WORDS_BYTES = 500


def start_agent(
    config: Path, instance: str, settings: PluginSettings, program: str, log: logging.Logger
) -> None:
    """Start an agent that ends with this engine; a second one of the instance ends at once.

    Where it cannot be started, or ends by itself, that is logged and the engine serves on; nothing
    here waits for it or raises.

    Args:
        config: The configuration file.
        instance: Name of the instance, whose ring exists: the agent ends with that.
        settings: Where the agent lives.
        program: Module whose command ``agent`` it is, such as ``voltana_sglang``.
        log: The engine's log.
    """
    interpreter = settings.interpreter or (sys.executable,)
    command = [*interpreter, "-m", program, "agent", "--config", str(config.resolve())]
    command += ["--instance", instance, "--until-engine-ends"]
    path = settings.state / f"{instance}.agent.log"
    try:
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("ab") as out:
            agent = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a signal to the engine's group is none to the agent
            )
    except (OSError, ValueError) as error:
        log.error(  # noqa: TRY400  (its words say it all)
            "voltana: no agent of %s: %s cannot be started (%s); the engine serves on at the "
            "default clocks. Set agent.interpreter to the Python that has %s[serving].",
            instance, " ".join(interpreter), error, program.replace("_", "-"),
        )  # fmt: skip
        return
    log.info("voltana: agent of %s started as process %d, log %s", instance, agent.pid, path)
    # It waits in the background, for a broken environment shows only when the agent has ended.
    threading.Thread(
        target=_report_end, args=(agent, instance, path, log), name="voltana-agent", daemon=True
    ).start()


def _report_end(
    agent: subprocess.Popen[bytes], instance: str, path: Path, log: logging.Logger
) -> None:
    status = agent.wait()
    log.error(
        "voltana: the agent of %s ended with status %d; the engine serves on at the default "
        "clocks, unless another agent serves it. Log %s ends: %s",
        instance, status, path, _last_words(path),
    )  # fmt: skip


def _last_words(path: Path) -> str:
    try:
        text = path.read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace").strip()
    except OSError:
        return ""
    return text.splitlines()[-1] if text else ""
