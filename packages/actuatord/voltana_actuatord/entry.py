"""Where ``voltana-actuatord`` begins: the daemon, its doctor, its metrics, or a question to it."""

from __future__ import annotations

import sys

DOCTOR = "doctor"
STATUS = "status"
METRICS = "metrics"


def main() -> int:
    """Run the daemon.

    With ``doctor`` as the first argument, say what is missing instead; with ``status``, whether a
    daemon answers, and what it says; with ``metrics``, tell Prometheus what it says.
    """
    if sys.argv[1:2] == [DOCTOR]:
        from voltana_actuatord.doctor_command import main as doctor  # noqa: PLC0415

        return doctor(sys.argv[2:])
    if sys.argv[1:2] == [STATUS]:
        from voltana_actuatord.status_command import main as status  # noqa: PLC0415

        return status(sys.argv[2:])
    if sys.argv[1:2] == [METRICS]:
        from voltana_actuatord.metrics.command import main as metrics  # noqa: PLC0415

        return metrics(sys.argv[2:])
    # The daemon's process loads nothing of the doctor.
    from voltana_actuatord.daemon.command import main as daemon  # noqa: PLC0415

    return daemon()
