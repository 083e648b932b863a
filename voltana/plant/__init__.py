"""The simulated cluster: hardware and model profiles, power, workload, and the event engine.

To ask one question of it, in seconds and watts::

    plant = PlantModel(load_hardware("a100-sxm4-80gb"), load_model("llama-3.1-8b"))
    plant.iterate(Load.decode(requests=64, kv_tokens=64 * 300), clock_mhz=1005)
"""

from voltana.plant.hardware import load_hardware
from voltana.plant.iteration import Iteration, PlantModel
from voltana.plant.model import load_model

__all__ = ["Iteration", "PlantModel", "load_hardware", "load_model"]
