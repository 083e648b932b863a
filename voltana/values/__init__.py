"""The frozen values that flow between predictors, controllers, routers and actuators.

Units stand in the names: ``_s`` seconds, ``_mhz`` megahertz, ``_w`` watts, ``_j`` joules. They are
converted only at a driver's edge. Values are immutable and keyword-only, and hold tuples, never
lists; NumPy arrays inside them are to be treated as read-only.
"""

from voltana.values.arrays import FloatArray, Table
from voltana.values.control import (
    UNBOUNDED,
    Binding,
    Bounds,
    Decision,
    Exposure,
    Limit,
    Observation,
    Outcome,
    Status,
)
from voltana.values.forecast import Forecast
from voltana.values.routing import (
    NO_RESERVATION,
    Candidate,
    Deferral,
    InstanceState,
    IntendedDemand,
    Need,
    Prefix,
    Request,
    Reservation,
    Role,
)
from voltana.values.work import (
    EMPTY_QUEUE,
    MAX_DEADLINE_BUCKETS,
    DeadlineBucket,
    Load,
    Phase,
    Queue,
    attended_pairs,
)
from voltana_actuatord.values import ActuatorStatus, Command, Domain, Health, Reading

__all__ = [
    "EMPTY_QUEUE",
    "MAX_DEADLINE_BUCKETS",
    "NO_RESERVATION",
    "UNBOUNDED",
    "ActuatorStatus",
    "Binding",
    "Bounds",
    "Candidate",
    "Command",
    "DeadlineBucket",
    "Decision",
    "Deferral",
    "Domain",
    "Exposure",
    "FloatArray",
    "Forecast",
    "Health",
    "InstanceState",
    "IntendedDemand",
    "Limit",
    "Load",
    "Need",
    "Observation",
    "Outcome",
    "Phase",
    "Prefix",
    "Queue",
    "Reading",
    "Request",
    "Reservation",
    "Role",
    "Status",
    "Table",
    "attended_pairs",
]
