"""The worker of the actuator daemon: reads clients' messages and keeps leases.

It has no driver and no privilege: the parent starts a process for every GPU and hands a link to it
over. The parent also hands over the listening socket and the configuration, hears twenty times a
second that all is well, and kills this process when it does not. When this process ends, whichever
way, the GPUs' processes give every clock back.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys

from voltana_actuatord.daemon.parentlink import ParentLink
from voltana_actuatord.daemon.privileges import die_with_parent, drop_capabilities
from voltana_actuatord.daemon.server import ActuatorServer
from voltana_actuatord.daemon.signals import ignore_all_but
from voltana_actuatord.stderr import never_wait

MAX_CONFIG_BYTES = 200_000


def main() -> int:
    """Run a worker; the descriptors of listener and parent are its two arguments."""
    never_wait()
    ignore_all_but([signal.SIGTERM])
    listener = socket.socket(fileno=int(sys.argv[1]))
    parent = socket.socket(fileno=int(sys.argv[2]))
    die_with_parent(signal.SIGTERM)
    drop_capabilities(keep=())
    config = json.loads(parent.recv(MAX_CONFIG_BYTES))
    gc.freeze()  # what is there now stays: no collection need look at it
    server = ActuatorServer(config, listener, ParentLink(parent))
    signal.signal(signal.SIGTERM, server.stop)
    os._exit(0 if server.serve() else 4)


if __name__ == "__main__":
    sys.exit(main())
