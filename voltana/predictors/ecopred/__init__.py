"""EcoPred, and the frozen models that it hands out.

A process that only asks a snapshot needs no learner, so either is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from voltana.faces import lazy

if TYPE_CHECKING:
    from voltana.predictors.ecopred.latency_model import LatencySnapshot
    from voltana.predictors.ecopred.predictor import EcoPred
    from voltana.predictors.ecopred.prior import Datasheet, Prior
    from voltana.predictors.ecopred.transformer import LatencyFeatures

__all__ = ["Datasheet", "EcoPred", "LatencyFeatures", "LatencySnapshot", "Prior"]

__getattr__ = lazy(
    __name__,
    {
        "Datasheet": "voltana.predictors.ecopred.prior",
        "EcoPred": "voltana.predictors.ecopred.predictor",
        "LatencyFeatures": "voltana.predictors.ecopred.transformer",
        "LatencySnapshot": "voltana.predictors.ecopred.latency_model",
        "Prior": "voltana.predictors.ecopred.prior",
    },
)
