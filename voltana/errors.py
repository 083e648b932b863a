"""The one error tree of the library.

Every error that a user can cause names the field, the value, the unit, the allowed range and the
remedy; `invalid` builds such a text so that all of them read alike.
"""

from __future__ import annotations

from voltana_actuatord.errors import (
    ActuatorError,
    ConfigError,
    MissingExtraError,
    UnknownNameError,
    VoltanaError,
    invalid,
    unknown_name,
)

__all__ = [
    "ActuatorError",
    "ConfigError",
    "ContractError",
    "MissingExtraError",
    "ProfileError",
    "RoutingError",
    "StabilityError",
    "TraceError",
    "UnknownNameError",
    "VoltanaError",
    "invalid",
    "unknown_name",
]


class TraceError(ConfigError):
    """A request trace cannot be read or holds impossible values."""


class ProfileError(ConfigError):
    """A hardware, model or predictor profile cannot be used as it is."""


class StabilityError(ConfigError):
    """A loop is unstable, has no equilibrium, or falls short of the margins asked for."""


class RoutingError(VoltanaError):
    """No instance can take the request."""


class ContractError(VoltanaError, AssertionError):
    """A component breaks the contract of its port (`voltana.testing`)."""
