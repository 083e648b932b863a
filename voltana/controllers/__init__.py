"""Frequency controllers and their wrappers, one algorithm a file."""

from voltana.controllers.budgeted import Budgeted
from voltana.controllers.ecofreq import EcoFreq
from voltana.controllers.ecofreq_v01 import EcoFreqV01
from voltana.controllers.energy_optimal import EnergyOptimal
from voltana.controllers.fixed import FixedClock
from voltana.controllers.memory import Memory
from voltana.controllers.optimal_available import OptimalAvailable
from voltana.controllers.parked import Parked
from voltana.controllers.pid import Pid, PidGains
from voltana.controllers.power_budget import PowerBudget
from voltana.controllers.rate_limit import RateLimited
from voltana.controllers.supervisor import Supervised
from voltana.controllers.token_demand import TokenDemand
from voltana.controllers.window import WindowGovernor

__all__ = [
    "Budgeted",
    "EcoFreq",
    "EcoFreqV01",
    "EnergyOptimal",
    "FixedClock",
    "Memory",
    "OptimalAvailable",
    "Parked",
    "Pid",
    "PidGains",
    "PowerBudget",
    "RateLimited",
    "Supervised",
    "TokenDemand",
    "WindowGovernor",
]
