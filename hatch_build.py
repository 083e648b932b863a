"""Metadata of our distributions at build time: one version, and where each finds the others.

In a checkout a distribution depends on the folders of the others, so that `pip install .` works
there without an index. With VOLTANA_RELEASE set it depends on their version instead: that is what
is published, and an index refuses the other. A source distribution carries what it was made with.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

FOLDERS = {
    "voltana": ".",
    "voltana-actuatord": "packages/actuatord",
    "voltana-ring": "packages/ring",
    "voltana-sglang": "integrations/sglang",
    "voltana-vllm": "integrations/vllm",
}
"""Our distributions, and where they lie in the repository."""

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9-]+)(?P<extras>\[[^\]]*\])?")
_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


class OwnDistributions(MetadataHookInterface):
    """Fills in the version and the dependencies that `[tool.hatch.metadata.hooks.custom]` lists."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in what `project.dynamic` names."""
        fill_in(metadata, self.config)


def fill_in(metadata: dict[str, Any], config: dict[str, Any]) -> None:
    """Write version and dependencies into `metadata`; the hooks of the other folders call this.

    Args:
        metadata: Of a distribution, with its name.
        config: Its ``dependencies`` and ``optional-dependencies``, where ours are among them.
    """
    home = Path(__file__).resolve().parent
    found = _VERSION.search((home / "voltana/__init__.py").read_text(encoding="utf-8"))
    if found is None:
        raise ValueError("voltana/__init__.py has no __version__: it is the version of all")

    def located(requirements: list[str]) -> list[str]:
        return [_located(text, metadata["name"], found[1], home) for text in requirements]

    metadata["version"] = found[1]
    if "dependencies" in config:
        metadata["dependencies"] = located(config["dependencies"])
    if "optional-dependencies" in config:
        extras = config["optional-dependencies"].items()
        metadata["optional-dependencies"] = {name: located(needed) for name, needed in extras}


def _located(requirement: str, own_name: str, version: str, home: Path) -> str:
    """A requirement as it goes into the metadata; those of others are left alone."""
    parsed = _REQUIREMENT.match(requirement)
    if parsed is None or parsed["name"] not in FOLDERS or parsed["name"] == own_name:
        return requirement
    if os.environ.get("VOLTANA_RELEASE"):
        return f"{parsed[0]}=={version}"
    return f"{parsed[0]} @ {(home / FOLDERS[parsed['name']]).resolve().as_uri()}"
