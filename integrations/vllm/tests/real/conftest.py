"""What the tests against real servers share."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vllm_server import make_model

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def config() -> Iterator[Path]:
    """A configuration with folders of its own, in memory as rings are by default.

    What hooks cost is not what they cost there where pages and bell lie on a disk.
    """
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        folder = Path(made)
        path = folder / "voltana.toml"
        path.write_text(f'[agent]\nrings = "{folder / "rings"}"\nstate = "{folder / "state"}"\n')
        yield path
