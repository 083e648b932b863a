"""Liveness: after any disturbance that ends, certificates return within 500 iterations."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.guarantee_steps import TYPICAL, World, mean_at
from voltana.policies.default import PROMISE
from voltana.values import Limit, Status

RETURN = 500
"""Iterations; (K + 1)(1 - alpha)/alpha is what certified misses that are in flight may cost."""


def off(world, reads):
    world.reads = reads
    world.run(150, slower=lambda number: 40.0 if number % 20 == 0 else 1.0)
    world.reads = lambda mhz: mhz


def ranks(world):
    world.runs = lambda mhz: 1410.0
    world.run(150, slower=lambda number: 40.0 if number % 20 == 0 else 1.0)
    world.runs = lambda mhz: mhz


def capped(world):
    world.loop.set_limit(Limit(source="operator", max_mhz=700.0))
    world.run(100)
    world.loop.clear_limit("operator")


def restart(world):
    state = json.loads(json.dumps(world.predictor.to_dict(), allow_nan=False))
    again = World(statement=world.predictor.statement, itl_s=world.itl_s)
    again.predictor.restore(state)
    world.__dict__.update(again.__dict__)


DISTURBANCES = {
    "stalls": lambda world: world.run(120, slower=lambda number: 40.0 if number % 3 else 1.0),
    "everything is slow": lambda world: world.run(300, slower=lambda number: 5.0),
    "nan": lambda world: off(world, lambda mhz: math.nan),
    "above": lambda world: off(world, lambda mhz: 1.03 * mhz),
    "far above": lambda world: off(world, lambda mhz: 1.3 * mhz),
    "below": lambda world: off(world, lambda mhz: 0.97 * mhz),
    "far below": lambda world: off(world, lambda mhz: 0.5 * mhz),
    "below all levels": lambda world: off(world, lambda mhz: 1e-9),
    "infinite": lambda world: off(world, lambda mhz: math.inf),
    "nonsense": lambda world: off(world, lambda mhz: -1.0),
    "another rank": ranks,
    "capped": capped,
    "restart": restart,
}


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(sorted(DISTURBANCES)), min_size=1, max_size=5),
    st.sampled_from([PROMISE, TYPICAL]),
    st.floats(1.2, 3.0),
)
def test_certificates_return_within_500_iterations(names, statement, slack):
    world = World(itl_s=slack * mean_at(1410.0), statement=statement)
    world.run(50)
    for name in names:
        DISTURBANCES[name](world)
    account = world.predictor.account()
    assert account["violated"] <= account["missed"] <= account["bound"]
    statuses = world.run(RETURN)
    assert Status.CERTIFIED in statuses
    first = statuses.index(Status.CERTIFIED)
    assert statuses[first:].count(Status.CERTIFIED) > 0.9 * (RETURN - first)


@pytest.mark.parametrize("reads_mhz", [math.nan, math.inf, -5.0])
def test_certificates_return_while_a_sensor_reads_nothing(reads_mhz):
    world = World(itl_s=1.4 * mean_at(1410.0), statement=PROMISE)
    world.run(50)
    world.reads = lambda mhz: reads_mhz
    world.run(150, slower=lambda number: 40.0 if number % 20 == 0 else 1.0)
    assert Status.CERTIFIED in world.run(RETURN)


def test_the_default_statement_returns_within_its_own_arithmetic():
    most = (PROMISE.delay + 1) * (1.0 - PROMISE.alpha) / PROMISE.alpha
    assert most < RETURN
