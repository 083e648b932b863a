"""Profiling of an engine that runs: what its iterations take, clock by clock."""
