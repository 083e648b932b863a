"""Frequency controllers and their wrappers, one algorithm a file."""
