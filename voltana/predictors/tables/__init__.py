"""The published EcoPred: one latency table for each profiled clock, and how it is profiled."""

from voltana.predictors.tables.predictor import TablePredictor, tile_bounds, tile_index
from voltana.predictors.tables.profiling import profile_tables
from voltana.predictors.tables.tables_file import holds_tables, load_tables, save_tables

__all__ = [
    "TablePredictor",
    "holds_tables",
    "load_tables",
    "profile_tables",
    "save_tables",
    "tile_bounds",
    "tile_index",
]
