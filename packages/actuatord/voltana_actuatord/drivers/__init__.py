"""Drivers of GPUs, one vendor a file."""
