"""Check suites and Hypothesis strategies for your own components; needs no pytest.

Each ``check_*`` takes a factory, runs named checks on fresh instances, and returns a `Report`, so
that ``check_controller(MyController).raise_if_failed()`` is a whole test.

`voltana.testing.strategies` generates loads, observations, level sets and latency sequences; it
needs the extra ``voltana[testing]``.
"""

from voltana.testing.actuator import check_actuator
from voltana.testing.controller import check_controller
from voltana.testing.driver import check_driver
from voltana.testing.guarantee import check_guarantee
from voltana.testing.level_set import check_level_set
from voltana.testing.power import check_power_predictor
from voltana.testing.predictor import check_predictor
from voltana.testing.report import CheckResult, Report
from voltana.testing.router import check_router

__all__ = [
    "CheckResult",
    "Report",
    "check_actuator",
    "check_controller",
    "check_driver",
    "check_guarantee",
    "check_level_set",
    "check_power_predictor",
    "check_predictor",
    "check_router",
]
