"""``voltana-actuatord status``: whether the daemon answers, for probes and people."""

from __future__ import annotations

import argparse
import json
import sys

from voltana_actuatord.console import daemon_status
from voltana_actuatord.errors import VoltanaError
from voltana_actuatord.protocol import DEFAULT_SOCKET


def main(arguments: list[str]) -> int:
    """Ask the daemon.

    Returns:
        Exit status: 0 if it answers, 1 if not.
    """
    parser = argparse.ArgumentParser(prog="voltana-actuatord status", description=__doc__)
    parser.add_argument("--socket", default=DEFAULT_SOCKET, help="where the daemon listens")
    options = parser.parse_args(arguments)
    try:
        text = json.dumps(daemon_status(options.socket))
    except VoltanaError as error:
        sys.stderr.write(f"voltana-actuatord: {error}\n")
        return 1
    sys.stdout.write(f"{text}\n")
    return 0
