"""``voltana-actuatord``: lends the clocks of GPUs to unprivileged programs and takes them back.

Run by systemd or as a container's main process. ``--restore`` only restores what the journal
marks, for ExecStopPost.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

from voltana_actuatord.daemon.restorer import Restorers
from voltana_actuatord.daemon.statefolder import StateFolder
from voltana_actuatord.errors import ConfigError, VoltanaError
from voltana_actuatord.protocol import DEFAULT_STATE_DIR

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
DEFAULT_CONFIG = Path("/etc/voltana/actuatord.toml")


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon.

    Returns:
        Exit status: 0 after an orderly stop, 1 if something could not be done, 2 for a
        configuration that is not allowed.
    """
    parser = argparse.ArgumentParser(prog="voltana-actuatord", description=__doc__)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="configuration (TOML)")
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    parser.add_argument("--restore", action="store_true", help="restore marked GPUs and end")
    options = parser.parse_args(arguments)
    try:
        return run(options.config, check=options.check, restore=options.restore)
    except VoltanaError as error:
        sys.stderr.write(f"voltana-actuatord: {error}\n")
        return 2


def run(config: Path, *, check: bool = False, restore: bool = False) -> int:
    """Do what the command line asked for.

    Args:
        config: Path of the configuration.
        check: Only validate it.
        restore: Only restore what the journal marks.

    Raises:
        ConfigError: If the configuration is not allowed.
        ActuatorError: If another daemon is running.
    """
    if check:
        _validated(config)
        return 0
    # Whoever stops the daemon while it starts waits until it can do so in order.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    folder = _state_dir(config)
    if not (folder / "journal").is_dir():  # the first start: nothing to restore
        _validated(config)
    state = StateFolder(folder)
    still_marked = Restorers(state.journal, [state.lock]).restore()
    if restore:
        return 1 if still_marked else 0
    plain = _validated(config)
    from voltana_actuatord.daemon.supervisor import Supervisor  # noqa: PLC0415  (needed last)

    return Supervisor(plain, state).run()


def _state_dir(path: Path) -> Path:
    """The state folder that a configuration names, before it is validated.

    Clocks come back before anything else, also where somebody broke the configuration meanwhile.
    """
    try:
        named = tomllib.loads(path.read_text()).get("state_dir", DEFAULT_STATE_DIR)
    except (OSError, ValueError):
        named = DEFAULT_STATE_DIR
    valid = isinstance(named, str) and Path(named).is_absolute()
    return Path(named) if valid else Path(DEFAULT_STATE_DIR)


def _validated(path: Path) -> dict[str, Any]:
    """Validate the configuration in a child, so that this process never loads pydantic."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os._exit(_validate(path, writer))
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise ConfigError(text or f"{path} could not be validated.")
    plain: dict[str, Any] = json.loads(text)
    return plain


def _validate(path: Path, writer: int) -> int:
    """Write the plain configuration, or what is wrong with it; the exit status."""
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "true"  # a privileged process runs nobody's plugins
    from voltana_actuatord.daemon.settings import load_settings  # noqa: PLC0415  (pydantic)

    try:
        text, status = json.dumps(load_settings(path).to_plain()), 0
    except VoltanaError as error:
        text, status = str(error), 1
    with os.fdopen(writer, "w") as file:
        file.write(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
