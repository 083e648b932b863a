"""Every check notices a component that breaks its promise, and passes one that keeps it."""

from __future__ import annotations

from functools import partial

import pytest

from tests.broken import BROKEN
from tests.honest import (
    HonestActuator,
    HonestController,
    HonestLevels,
    HonestPower,
    HonestPredictor,
    HonestRouter,
)
from voltana.testing import (
    check_actuator,
    check_controller,
    check_level_set,
    check_power_predictor,
    check_predictor,
    check_router,
)
from voltana.testing.actuator import ACTUATOR_CHECKS
from voltana.testing.controller import CONTROLLER_CHECKS
from voltana.testing.level_set import LEVEL_SET_CHECKS
from voltana.testing.power import POWER_CHECKS, STRICT_POWER_CHECKS
from voltana.testing.predictor import PREDICTOR_CHECKS, STRICT_PREDICTOR_CHECKS
from voltana.testing.router import ROUTER_CHECKS

CHECK = {
    "predictor": partial(check_predictor, strict=True),
    "power": partial(check_power_predictor, strict=True),
    "controller": check_controller,
    "router": check_router,
    "actuator": partial(check_actuator, timeout_s=0.05),
    "level set": check_level_set,
}
HONEST = {
    "predictor": HonestPredictor,
    "power": HonestPower,
    "controller": HonestController,
    "router": HonestRouter,
    "actuator": HonestActuator,
    "level set": HonestLevels,
}
NAMES = {
    "predictor": PREDICTOR_CHECKS + STRICT_PREDICTOR_CHECKS,
    "power": POWER_CHECKS + STRICT_POWER_CHECKS,
    "controller": CONTROLLER_CHECKS,
    "router": ROUTER_CHECKS,
    "actuator": ACTUATOR_CHECKS,
    "level set": LEVEL_SET_CHECKS,
}
CASES = [
    pytest.param(kind, check, factory, id=f"{kind}-{check}-{factory.__name__}")
    for kind, pairs in BROKEN.items()
    for check, factory in pairs
]


@pytest.mark.parametrize(("kind", "check", "factory"), CASES)
def test_a_broken_promise_is_noticed_by_its_check(kind, check, factory):
    others = {other.__name__ for other in NAMES[kind]} - {check}
    report = CHECK[kind](factory, skip=others)
    assert [result.name for result in report.failures] == [check], str(report)
    for word in ("contract:", "seen:", "remedy:"):
        assert word in report.failures[0].detail


@pytest.mark.parametrize("kind", HONEST)
def test_an_honest_component_passes_every_check(kind):
    report = CHECK[kind](HONEST[kind])
    assert report.passed, str(report)
    assert [result.name for result in report.results] == [check.__name__ for check in NAMES[kind]]


@pytest.mark.parametrize("kind", NAMES)
def test_every_check_has_a_broken_component_and_a_contract(kind):
    assert {check.__name__ for check in NAMES[kind]} == {check for check, _ in BROKEN[kind]}
    for check in NAMES[kind]:
        assert check.__doc__, check.__name__
