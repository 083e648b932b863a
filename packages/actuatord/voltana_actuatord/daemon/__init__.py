"""The privileged daemon: a supervisor, a worker that holds the driver, leases and a journal."""
