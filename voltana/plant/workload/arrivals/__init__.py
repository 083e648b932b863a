"""Arrival processes, one a file: when requests come."""

from voltana.plant.workload.arrivals.client_rates import ClientRates, read_client_rates
from voltana.plant.workload.arrivals.diurnal import Diurnal, load_profile
from voltana.plant.workload.arrivals.gamma import Gamma
from voltana.plant.workload.arrivals.poisson import Poisson
from voltana.plant.workload.arrivals.process import ArrivalProcess

__all__ = [
    "ArrivalProcess",
    "ClientRates",
    "Diurnal",
    "Gamma",
    "Poisson",
    "load_profile",
    "read_client_rates",
]
