"""How far a policy is from the optimum: a clairvoyant lower bound on energy subject to the SLOs."""

from voltana.evaluation.bound.bound import RELAXATIONS, Bound, lower_bound
from voltana.evaluation.bound.compare import BoundReport, PolicyGap, allowance, bound_comparison

__all__ = (
    "RELAXATIONS",
    "Bound",
    "BoundReport",
    "PolicyGap",
    "allowance",
    "bound_comparison",
    "lower_bound",
)
