"""The privileged daemon: a parent, a worker that holds the driver, leases and a journal."""
