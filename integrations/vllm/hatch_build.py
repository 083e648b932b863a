"""The metadata hook of the repository; a source distribution carries what came of it instead."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

SHARED = Path(__file__).resolve().parents[2] / "hatch_build.py"


class OwnDistributions(MetadataHookInterface):
    """Fills in the version of all our distributions, and where this one finds the others."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in what `project.dynamic` names; not called in a source distribution."""
        runpy.run_path(str(SHARED))["fill_in"](metadata, self.config)
