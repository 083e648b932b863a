"""Every router that ships keeps the contract of its port."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.inventory import EXAMPLES, classes_with
from voltana.predictors.linear_power import LinearPower
from voltana.routers.by_role import ByRole
from voltana.routers.ecoroute import EcoRoute
from voltana.routers.fill_up import FillUp
from voltana.routers.least_loaded import LeastLoaded
from voltana.routers.least_memory import LeastMemory
from voltana.routers.marginal_energy import MarginalEnergy
from voltana.routers.mdp import MDPRouter, at_once
from voltana.routers.prefix_affinity import PrefixAffinity
from voltana.routers.random import RandomRouter
from voltana.routers.round_robin import RoundRobin
from voltana.routers.shared_gaps import SharedGaps
from voltana.routers.tile_aware import TileAware
from voltana.routers.viable_batch import ViableBatch
from voltana.routers.what_if_v01 import WhatIfV01
from voltana.routers.with_places import WithPlaces
from voltana.testing import check_router
from voltana.testing import strategies as vst
from voltana.values import Deferral

CASES = {
    "MDPRouter": lambda: MDPRouter(LinearPower(), max_states=300, run=at_once),
    "RoundRobin": RoundRobin,
    "ByRole": lambda: ByRole(LeastMemory()),
    "RandomRouter": lambda: RandomRouter(3),
    "LeastLoaded": LeastLoaded,
    "LeastMemory": LeastMemory,
    "MarginalEnergy": MarginalEnergy,
    "MarginalEnergy, EcoRoute": lambda: MarginalEnergy(EcoRoute(LeastMemory())),
    "FillUp": FillUp,
    "FillUp, always": lambda: FillUp(1.0),
    "FillUp, never": lambda: FillUp(0.0),
    "PrefixAffinity": PrefixAffinity,
    "PrefixAffinity, FillUp": lambda: PrefixAffinity(FillUp(), weight=3.0, page_tokens=16),
    "SharedGaps": SharedGaps,
    "SharedGaps, WithPlaces": lambda: WithPlaces(SharedGaps(1.0)),
    "TileAware": TileAware,
    "TileAware, small tiles": lambda: TileAware(8),
    "ViableBatch": lambda: ViableBatch(MarginalEnergy()),
    "ViableBatch, LeastMemory": lambda: ViableBatch(LeastMemory()),
    "WhatIfV01": WhatIfV01,
    "WhatIfV01, small tiles": lambda: WhatIfV01(8),
    "WithPlaces": lambda: WithPlaces(RoundRobin()),
    "EcoRoute": EcoRoute,
    "EcoRoute, least memory": lambda: EcoRoute(LeastMemory(), boundary_mhz=30.0),
    "EcoRoute, least loaded": lambda: EcoRoute(LeastLoaded(), boundary_mhz=30.0),
    "EcoRoute, small tiles": lambda: EcoRoute(tile=8),
}


@pytest.mark.parametrize("name", CASES)
def test_routers(name):
    check_router(CASES[name]).raise_if_failed()


@EXAMPLES
@pytest.mark.parametrize("name", CASES)
def test_routers_survive_every_pool(name, examples):
    make = CASES[name]

    @settings(max_examples=examples)
    @given(st.lists(st.tuples(vst.requests(), vst.candidates()), min_size=1, max_size=4))
    def check(calls):
        router = make()
        for request, candidates in calls:
            chosen = router.route(request, candidates)
            if isinstance(chosen, Deferral):
                assert request.slack_s > 0
                assert chosen.for_s > 0
            else:
                assert chosen in [candidate.instance for candidate in candidates]

    check()


def test_none_is_forgotten():
    shipped = classes_with("voltana.routers", "route")
    assert set(shipped) <= {type(make()).__name__ for make in CASES.values()}
