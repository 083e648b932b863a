"""Actuators, one mechanism a file.

Names are loaded when they are first asked for: the daemon's processes import modules of this
package and must stay small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.actuators.client import ActuatorProcess
    from voltana.actuators.dry_run import DryRun
    from voltana.actuators.energy import EnergyMeter
    from voltana.actuators.inprocess import NvmlActuator, NvmlSensor
    from voltana.actuators.nvidia_smi import NvidiaSmiActuator
    from voltana.actuators.nvml import nvml_clock_table
    from voltana.actuators.power_cap import PowerCapActuator
    from voltana.actuators.recording import RecordingActuator

_HOMES = {
    "ActuatorProcess": "client",
    "DryRun": "dry_run",
    "EnergyMeter": "energy",
    "NvidiaSmiActuator": "nvidia_smi",
    "NvmlActuator": "inprocess",
    "NvmlSensor": "inprocess",
    "PowerCapActuator": "power_cap",
    "RecordingActuator": "recording",
    "nvml_clock_table": "nvml",
}

__all__ = [
    "ActuatorProcess",
    "DryRun",
    "EnergyMeter",
    "NvidiaSmiActuator",
    "NvmlActuator",
    "NvmlSensor",
    "PowerCapActuator",
    "RecordingActuator",
    "nvml_clock_table",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
