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
    from voltana.actuators.inprocess import InProcessActuator
    from voltana.actuators.nvidia_smi import NvidiaSmiActuator
    from voltana.actuators.power_cap import PowerCapActuator
    from voltana.actuators.recording import RecordingActuator
    from voltana.actuators.sensor import GpuSensor
    from voltana_actuatord.client import ActuatorProcess
    from voltana_actuatord.drivers.opening import gpu_clock_table
    from voltana_actuatord.gpu_names import gpu_uuids

_HOMES = {
    "ActuatorProcess": "voltana_actuatord.client",
    "DryRun": "voltana.actuators.dry_run",
    "EnergyMeter": "voltana.actuators.energy",
    "GpuSensor": "voltana.actuators.sensor",
    "InProcessActuator": "voltana.actuators.inprocess",
    "NvidiaSmiActuator": "voltana.actuators.nvidia_smi",
    "PowerCapActuator": "voltana.actuators.power_cap",
    "RecordingActuator": "voltana.actuators.recording",
    "gpu_clock_table": "voltana_actuatord.drivers.opening",
    "gpu_uuids": "voltana_actuatord.gpu_names",
}

__all__ = [
    "ActuatorProcess",
    "DryRun",
    "EnergyMeter",
    "GpuSensor",
    "InProcessActuator",
    "NvidiaSmiActuator",
    "PowerCapActuator",
    "RecordingActuator",
    "gpu_clock_table",
    "gpu_uuids",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
