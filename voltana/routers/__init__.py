"""Request routers, one algorithm a file; its organs lie in a folder."""

from voltana.routers.ecoroute import EcoRoute
from voltana.routers.fill_up import FillUp
from voltana.routers.least_loaded import LeastLoaded
from voltana.routers.least_memory import LeastMemory
from voltana.routers.marginal_energy import MarginalEnergy
from voltana.routers.mdp import MDPRouter
from voltana.routers.prefix_affinity import PrefixAffinity
from voltana.routers.random import RandomRouter
from voltana.routers.round_robin import RoundRobin
from voltana.routers.shared_gaps import SharedGaps
from voltana.routers.tile_aware import TileAware
from voltana.routers.what_if_v01 import WhatIfV01

__all__ = [
    "EcoRoute",
    "FillUp",
    "LeastLoaded",
    "LeastMemory",
    "MDPRouter",
    "MarginalEnergy",
    "PrefixAffinity",
    "RandomRouter",
    "RoundRobin",
    "SharedGaps",
    "TileAware",
    "WhatIfV01",
]
