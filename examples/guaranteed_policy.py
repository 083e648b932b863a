"""A policy with a proven bound on its SLO violations, and the checks that hold it to that.

    voltana check guaranteed_policy:make
    pytest guaranteed_policy.py

`Conformal` turns any predictor's mean into a bound that is missed by at most alpha of the certified
iterations (plus a constant), whatever the latencies do. The controller needs to know nothing of it.
"""

from voltana.controllers.ecofreq import EcoFreq
from voltana.policy import InstanceContext
from voltana.predictors.conformal import Conformal
from voltana.predictors.ecopred import EcoPred
from voltana.promise import Statement
from voltana.testing import check_guarantee

ONE_IN_A_HUNDRED = Statement(alpha=0.01, gamma=0.02)


def bound() -> Conformal:
    """EcoPred's mean with a tracked margin, started at 15 % as from a profile."""
    return Conformal(EcoPred(), ONE_IN_A_HUNDRED, first=0.15)


def make(context: InstanceContext) -> EcoFreq:
    """The lowest clock whose bound fits, on the upper half of the clocks."""
    levels = [mhz for mhz in context.table_mhz if mhz >= 0.5 * context.table_mhz[-1]]
    return EcoFreq(bound(), levels, context.slo)


def test_the_guarantee() -> None:
    """A whole test, for pytest."""
    check_guarantee(bound, programs=20).raise_if_failed()
