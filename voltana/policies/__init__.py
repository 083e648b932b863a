"""Policies: named compositions of controllers, predictors and routers.

A policy is added in `voltana.policies.named`, in one entry. The names load what they need when they
are first used: a power budget learns with river, which takes some time.
"""

from typing import TYPE_CHECKING

from voltana.faces import lazy

if TYPE_CHECKING:
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

__getattr__ = lazy(
    __name__,
    {
        "get_policy": "voltana.policies.named",
        "load_policy": "voltana.policies.users_own",
        "load_predictor": "voltana.policies.overrides",
        "policy_names": "voltana.policies.named",
        "with_overrides": "voltana.policies.overrides",
        "with_power_budget": "voltana.policies.power_budget",
        "with_routing": "voltana.policies.named",
    },
)
