"""What the tests against real servers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vllm_server import make_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with folders of its own."""
    folder = tmp_path_factory.mktemp("voltana")
    path = folder / "voltana.toml"
    path.write_text(f'[agent]\nrings = "{folder / "rings"}"\nstate = "{folder / "state"}"\n')
    return path
