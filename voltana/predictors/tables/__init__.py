"""The published EcoPred: one latency table for each profiled clock, and how it is profiled."""

from voltana.predictors.tables.predictor import TablePredictor, tile_bounds, tile_index
from voltana.predictors.tables.profiling import profile_tables

__all__ = ["TablePredictor", "profile_tables", "tile_bounds", "tile_index"]
