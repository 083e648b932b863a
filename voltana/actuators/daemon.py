"""``voltana-actuatord``: lends the clocks of GPUs to unprivileged programs and takes them back.

Run by systemd or as a container's main process. ``--restore`` only restores what the journal
marks, for ExecStopPost.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from voltana.errors import ConfigError, VoltanaError

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
    plain = _validated(config)
    if check:
        return 0
    if restore:
        from voltana.actuators.journal import Journal  # noqa: PLC0415
        from voltana.actuators.restorer import Restorers  # noqa: PLC0415

        return 1 if Restorers(Journal(Path(plain["state_dir"]) / "journal")).restore() else 0
    from voltana.actuators.supervisor import Supervisor  # noqa: PLC0415

    return Supervisor(plain).run()


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
    from voltana.actuators.settings import load_settings  # noqa: PLC0415  (pydantic)

    try:
        text, status = json.dumps(load_settings(path).to_plain()), 0
    except VoltanaError as error:
        text, status = str(error), 1
    with os.fdopen(writer, "w") as file:
        file.write(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
