"""``voltana-actuatord``: gives unprivileged programs the clocks of GPUs, and always takes them back.

Run by systemd or as a container's main process. ``--restore`` only restores what the journal marks,
for ExecStopPost.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from voltana.errors import VoltanaError

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
    from voltana.actuators.settings import group_id, load_settings  # noqa: PLC0415  (pydantic)

    settings = load_settings(config)
    group = settings.socket_group
    gid = None if group is None else group_id(group)
    if check:
        return 0
    if restore:
        from voltana.actuators import restorer  # noqa: PLC0415  (loads the driver)

        return restorer.main([str(settings.state_dir)])
    from voltana.actuators.supervisor import Supervisor  # noqa: PLC0415

    return Supervisor(settings, gid).run()


if __name__ == "__main__":
    sys.exit(main())
