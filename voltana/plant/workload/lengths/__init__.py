"""Length distributions: how many tokens requests bring and ask for."""

from voltana.plant.workload.lengths.catalogue import (
    Provenance,
    length_names,
    load_lengths,
    load_provenance,
)
from voltana.plant.workload.lengths.joint import LengthDistribution
from voltana.plant.workload.lengths.log_quantiles import LogQuantiles
from voltana.plant.workload.lengths.lognormal import Lognormal
from voltana.plant.workload.lengths.marginal import Marginal

__all__ = [
    "LengthDistribution",
    "LogQuantiles",
    "Lognormal",
    "Marginal",
    "Provenance",
    "length_names",
    "load_lengths",
    "load_provenance",
]
