"""The ports: structural Protocols that a user's class satisfies without a base class.

Data flows one way round the loop: a Sensor's reading becomes an Observation, a Predictor forecasts
it, a Controller decides, the core clamps and certifies, an Actuator applies, and the measured
Outcome goes back to the Predictor. Routers stand beside the loop and look at frozen snapshots.
`voltana.testing` has a check suite for each of them. Abilities that a component may have beside its
port are ports of their own; they are asked for when something is built, never in an iteration.
"""

from voltana.ports.abilities import Closable, Reopens, Restorable, offers
from voltana.ports.control import (
    Controller,
    HasLevels,
    HearsEnds,
    KeepsAccount,
    KeepsViability,
    Plans,
    TellsDemand,
    TellsExpected,
    viability_of,
)
from voltana.ports.devices import Actuator, Sensor
from voltana.ports.latency import (
    Forecasts,
    HoldsPredictor,
    LatencyCurve,
    Predictor,
    PredictorSnapshot,
    TellsBatches,
    TellsCurve,
    TellsPrefill,
    TellsRoom,
)
from voltana.ports.power import (
    FreezesPower,
    PowerCurve,
    PowerForecasts,
    PowerPredictor,
    PowerSnapshot,
    TellsPowerCurve,
)
from voltana.ports.routing import Defers, Intends, Needy, Router, intended_by, may_defer, needs_of
from voltana_actuatord.timebase import TimeSource

__all__ = [
    "Actuator",
    "Closable",
    "Controller",
    "Defers",
    "Forecasts",
    "FreezesPower",
    "HasLevels",
    "HearsEnds",
    "HoldsPredictor",
    "Intends",
    "KeepsAccount",
    "KeepsViability",
    "LatencyCurve",
    "Needy",
    "Plans",
    "PowerCurve",
    "PowerForecasts",
    "PowerPredictor",
    "PowerSnapshot",
    "Predictor",
    "PredictorSnapshot",
    "Reopens",
    "Restorable",
    "Router",
    "Sensor",
    "TellsBatches",
    "TellsCurve",
    "TellsDemand",
    "TellsExpected",
    "TellsPowerCurve",
    "TellsPrefill",
    "TellsRoom",
    "TimeSource",
    "intended_by",
    "may_defer",
    "needs_of",
    "offers",
    "viability_of",
]
