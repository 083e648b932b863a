"""``voltana-actuatord``: lends the clocks of GPUs to unprivileged programs and takes them back.

Run by systemd or as a container's main process. ``--restore`` only restores what the journal
marks, for ExecStopPost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voltana_actuatord.daemon.claims import Claims
from voltana_actuatord.daemon.keepers import Keepers
from voltana_actuatord.daemon.privileges import go_first
from voltana_actuatord.daemon.signals import STOPPING, ignore_all_but
from voltana_actuatord.daemon.statefolder import StateFolder
from voltana_actuatord.daemon.trust import UntrustedError, read_trusted
from voltana_actuatord.drivers.opening import DEFAULT_DRIVER, find_driver
from voltana_actuatord.errors import ActuatorError, ConfigError, VoltanaError
from voltana_actuatord.protocol import DEFAULT_CLAIMS_DIR, DEFAULT_STATE_DIR
from voltana_actuatord.stderr import never_wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.drivers.port import GpuDriver

RESTORE_S, FIRST_RESTORE_S = 3.0, 0.8
"""How long ``--restore`` tries, and how long a daemon that starts tries before it serves others."""

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
    never_wait()
    try:
        return run(options.config, check=options.check, restore=options.restore)
    except VoltanaError as error:
        with contextlib.suppress(OSError):
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
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    ignore_all_but(STOPPING)
    go_first()
    folder, claims, open_driver = _unchecked(config)
    if not (folder / "journal").is_dir():  # the first start: nothing to restore
        _validated(config)
    state = StateFolder(folder, claims)
    keepers = Keepers(state.journal, open_driver)
    keepers.keep_out = [state.lock]
    with contextlib.suppress(ActuatorError):  # said later on: clocks come back before anything else
        keepers.claims = Claims(claims)
    keepers.settle(RESTORE_S if restore else FIRST_RESTORE_S)
    if restore:
        keepers.end()
        return 1 if keepers.marked() else 0
    try:
        plain = _validated(config)
        from voltana_actuatord.daemon.parent import DaemonParent  # noqa: PLC0415  (needed last)

        daemon = DaemonParent(plain, state, keepers, find_driver(plain["driver"]))
    except VoltanaError:
        keepers.settle(RESTORE_S)
        keepers.end()
        raise
    return daemon.run()


def _unchecked(path: Path) -> tuple[Path, Path, Callable[[], GpuDriver]]:
    """State folder, folder of claims and driver that a configuration names, before it is validated.

    Clocks come back before anything else, also where somebody broke the configuration meanwhile.
    The driver's module is imported here, before anything forks: a restoring child has 0.1 s in all.
    """
    try:
        named = tomllib.loads(read_trusted(path))
    except (UntrustedError, OSError, ValueError, RecursionError):
        named = {}
    folder = _absolute(named.get("state_dir"), DEFAULT_STATE_DIR)
    claims = _absolute(named.get("claims_dir"), DEFAULT_CLAIMS_DIR)
    try:
        open_driver = find_driver(str(named.get("driver", DEFAULT_DRIVER)))
    except ConfigError:
        open_driver = find_driver(DEFAULT_DRIVER)
    return folder, claims, open_driver


def _absolute(name: object, default: str) -> Path:
    return Path(name if isinstance(name, str) and Path(name).is_absolute() else default)


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
