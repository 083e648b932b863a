"""Request traces: arrivals, length distributions, replay of recorded traces."""

from voltana.plant.workload.generate import ARRIVAL_NAMES, make_workload, workload_names
from voltana.plant.workload.replay import FORMAT_NAMES, read_trace
from voltana.plant.workload.trace import Trace

__all__ = [
    "ARRIVAL_NAMES",
    "FORMAT_NAMES",
    "Trace",
    "make_workload",
    "read_trace",
    "workload_names",
]
