"""The worker of the actuator daemon: the one process that holds NVML.

One thread reads messages and keeps leases; a thread a GPU makes driver calls (`channel`). The
parent hands over the listening socket and the configuration, hears twenty times a second that
all is well, and kills this process when it does not. When the parent dies, this process gives
every clock back and ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

from voltana_actuatord.daemon.parentlink import ParentLink
from voltana_actuatord.daemon.privileges import CAP_SYS_ADMIN, die_with_parent, drop_capabilities
from voltana_actuatord.daemon.server import ActuatorServer
from voltana_actuatord.drivers.nvml import Driver
from voltana_actuatord.faults import DriverError

MAX_CONFIG_BYTES = 200_000


def main() -> int:
    """Run a worker; the descriptors of listener and parent are its two arguments."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    parent = socket.socket(fileno=int(sys.argv[2]))
    die_with_parent(signal.SIGTERM)
    drop_capabilities(keep=(CAP_SYS_ADMIN,))
    config = json.loads(parent.recv(MAX_CONFIG_BYTES))
    try:
        driver = Driver()
    except DriverError as error:
        parent.send(b"failed " + str(error).encode()[:400])
        return 3
    server = ActuatorServer(config, listener, ParentLink(parent), driver)
    signal.signal(signal.SIGTERM, server.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    restored = server.serve()
    if restored:
        driver.close()
    sys.stderr.flush()
    os._exit(0 if restored else 4)  # a thread may still be inside the driver


if __name__ == "__main__":
    sys.exit(main())
