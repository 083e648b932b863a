"""Policies: named compositions of controllers, predictors and routers.

A policy is added in `voltana.policies.named`, in one entry.
"""

from voltana.policies.named import get_policy, policy_names, with_routing
from voltana.policies.overrides import load_predictor, with_overrides
from voltana.policies.power_budget import with_power_budget
from voltana.policies.users_own import load_policy

__all__ = [
    "get_policy",
    "load_policy",
    "load_predictor",
    "policy_names",
    "with_overrides",
    "with_power_budget",
    "with_routing",
]
