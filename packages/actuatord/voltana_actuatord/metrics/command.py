"""``voltana-actuatord metrics``: tells Prometheus what the daemon says of itself.

Run it as a user without any privilege who is in an ``[[allow]]`` rule with ``gpus = []``: he may
ask for the status and set no clock.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading

from voltana_actuatord.metrics.exporter import Exporter, of_daemon
from voltana_actuatord.protocol import DEFAULT_SOCKET

DEFAULT_PORT = 9841
HIGHEST_PORT = 65535


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= HIGHEST_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is not allowed: must be 0 to {HIGHEST_PORT}. 0 takes a free one."
    )


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        Exit status: 0 after an orderly end, 1 if the address cannot be had, 2 as root.
    """
    parser = argparse.ArgumentParser(prog="voltana-actuatord metrics", description=__doc__)
    parser.add_argument("--socket", default=DEFAULT_SOCKET, help="where the daemon listens")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help="port; 0 takes a free one")
    parser.add_argument(
        "--name", action="append", default=[], help="further name under which it may be asked"
    )
    parser.add_argument("--as-root", action="store_true", help="run as root all the same")
    options = parser.parse_args(arguments)
    if os.geteuid() == 0 and not options.as_root:
        sys.stderr.write(
            "voltana-actuatord: metrics needs no privilege and must not run as root, who may end "
            "everybody's leases. Run it as a user of an [[allow]] rule with gpus = [], or give "
            "--as-root.\n"
        )
        return 2
    host_name = socket.gethostname()
    names = (*options.name, host_name, host_name.partition(".")[0])
    try:
        exporter = Exporter((options.host, options.port), of_daemon(options.socket), names)
    except OSError as error:
        sys.stderr.write(
            f"voltana-actuatord: metrics cannot listen at {options.host}:{options.port}: {error}. "
            "Give another --host or --port.\n"
        )
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=exporter.shutdown).start())
    sys.stderr.write(f"voltana-actuatord metrics: http://{options.host}:{exporter.port}/metrics\n")
    exporter.serve_forever()
    exporter.server_close()
    return 0
