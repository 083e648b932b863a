"""Actuators, one mechanism a file."""

from voltana.actuators.dry_run import DryRun
from voltana.actuators.recording import RecordingActuator

__all__ = ["DryRun", "RecordingActuator"]
