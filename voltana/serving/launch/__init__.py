"""Starts a cluster of servers on one host, with their agents and a router."""
