"""The daemon's figures for Prometheus, told by an unprivileged process of its own."""
