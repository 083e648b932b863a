"""Latency and power predictors, one algorithm a file; its organs lie in a folder.

The names load what they need when they are first used: those of river take some time.
"""

from typing import TYPE_CHECKING

from voltana.faces import lazy

if TYPE_CHECKING:
    from voltana.predictors.cautious_power import CautiousPower
    from voltana.predictors.conformal import Conformal
    from voltana.predictors.drift import DriftAware
    from voltana.predictors.ecopred import EcoPred
    from voltana.predictors.ecopred.transformer import LatencyFeatures
    from voltana.predictors.least_squares import DirectionalLeastSquares
    from voltana.predictors.linear_power import LinearPower
    from voltana.predictors.offline import fit_profile
    from voltana.predictors.profile import Stack, load_profile, save_profile
    from voltana.predictors.river_adapter import RiverPredictor
    from voltana.predictors.tables import TablePredictor, profile_tables

__all__ = [
    "CautiousPower",
    "Conformal",
    "DirectionalLeastSquares",
    "DriftAware",
    "EcoPred",
    "LatencyFeatures",
    "LinearPower",
    "RiverPredictor",
    "Stack",
    "TablePredictor",
    "fit_profile",
    "load_profile",
    "profile_tables",
    "save_profile",
]

__getattr__ = lazy(
    __name__,
    {
        "CautiousPower": "voltana.predictors.cautious_power",
        "Conformal": "voltana.predictors.conformal",
        "DirectionalLeastSquares": "voltana.predictors.least_squares",
        "DriftAware": "voltana.predictors.drift",
        "EcoPred": "voltana.predictors.ecopred",
        "LatencyFeatures": "voltana.predictors.ecopred.transformer",
        "LinearPower": "voltana.predictors.linear_power",
        "RiverPredictor": "voltana.predictors.river_adapter",
        "Stack": "voltana.predictors.profile",
        "TablePredictor": "voltana.predictors.tables",
        "fit_profile": "voltana.predictors.offline",
        "load_profile": "voltana.predictors.profile",
        "profile_tables": "voltana.predictors.tables",
        "save_profile": "voltana.predictors.profile",
    },
)
