"""Conformal: a margin with a proven miss rate on any latency predictor, and what groups it."""

from voltana.predictors.conformal.groups import BySize, ByTokens, by_phase, one_group, one_weight
from voltana.predictors.conformal.risk import at_most, evidence
from voltana.predictors.conformal.snapshot import ConformalSnapshot
from voltana.predictors.conformal.wrapper import PROFILED_MARGIN, UNUSABLE, Conformal

__all__ = [
    "PROFILED_MARGIN",
    "UNUSABLE",
    "BySize",
    "ByTokens",
    "Conformal",
    "ConformalSnapshot",
    "at_most",
    "by_phase",
    "evidence",
    "one_group",
    "one_weight",
]
