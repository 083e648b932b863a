"""Actuators, one mechanism a file."""
