"""Where ``voltana-actuatord`` begins: the daemon, or its doctor."""

from __future__ import annotations

import sys

DOCTOR = "doctor"


def main() -> int:
    """Run the daemon; with ``doctor`` as the first argument, say what is missing instead."""
    if sys.argv[1:2] == [DOCTOR]:
        from voltana_actuatord.doctor_command import main as doctor  # noqa: PLC0415

        return doctor(sys.argv[2:])
    # The daemon's process loads nothing of the doctor.
    from voltana_actuatord.daemon.command import main as daemon  # noqa: PLC0415

    return daemon()
