"""The short-lived process that restores marked GPUs: ``python -m voltana.actuators.restorer``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from voltana.actuators.daemonlog import Log
from voltana.actuators.faults import DriverError
from voltana.actuators.journal import Journal
from voltana.actuators.privileges import die_with_parent
from voltana.actuators.restore import restore_marked


def main(arguments: list[str]) -> int:
    """Restore.

    Args:
        arguments: The daemon's state folder, then the UUIDs to restrict this to, if any.

    Returns:
        0 if everything is at its default clocks.
    """
    die_with_parent(signal.SIGKILL)
    log = Log("restorer")
    try:
        failures = restore_marked(Journal(Path(arguments[0]) / "journal"), arguments[1:] or None)
    except (DriverError, OSError) as error:
        log(str(error))
        return 1
    for uuid, text in failures.items():
        log(f"{uuid}: {text}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
