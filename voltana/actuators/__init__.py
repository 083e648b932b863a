"""Actuators, one mechanism a file.

Names are loaded when they are first asked for: the daemon's processes import modules of this
package and must stay small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.actuators.dry_run import DryRun
    from voltana.actuators.energy import EnergyMeter
    from voltana.actuators.inprocess import NvmlActuator, NvmlSensor
    from voltana.actuators.nvidia_smi import NvidiaSmiActuator
    from voltana.actuators.power_cap import PowerCapActuator
    from voltana.actuators.recording import RecordingActuator
    from voltana_actuatord.client import ActuatorProcess
    from voltana_actuatord.drivers.nvml import nvml_clock_table

_HOMES = {
    "ActuatorProcess": "voltana_actuatord.client",
    "DryRun": "voltana.actuators.dry_run",
    "EnergyMeter": "voltana.actuators.energy",
    "NvidiaSmiActuator": "voltana.actuators.nvidia_smi",
    "NvmlActuator": "voltana.actuators.inprocess",
    "NvmlSensor": "voltana.actuators.inprocess",
    "PowerCapActuator": "voltana.actuators.power_cap",
    "RecordingActuator": "voltana.actuators.recording",
    "nvml_clock_table": "voltana_actuatord.drivers.nvml",
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
    return getattr(importlib.import_module(home), name)
