"""Fixtures around real SGLang servers; they are started on demand and shared by the session.

Run from the root of the repository, in the environment that ``make sglang-setup`` makes.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Fleet, Server

HERE = os.path.dirname(__file__)  # noqa: PTH120  (compared with pytest's strings)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is here where SGLang is absent."""
    if importlib.util.find_spec("sglang") is None:
        skip = pytest.mark.skip(reason="SGLang is not installed: make sglang-setup")
        for item in items:
            if str(item.path).startswith(HERE):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a 2-layer Llama with a tokenizer and random weights."""
    from voltana_sglang_cpu.tiny_model import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def fleet(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Starts servers of any specification, and ends them with the session."""
    from servers import Fleet

    made = Fleet(tiny_model, tmp_path_factory.mktemp("servers"))
    yield made
    made.stop()


@pytest.fixture
def unified(fleet: Fleet) -> Server:
    """One server for both phases, without voltana's plugin configured."""
    from servers import ServerSpec

    return fleet.get(ServerSpec(name="unified"))[0]


@pytest.fixture
def pair(fleet: Fleet) -> tuple[Server, Server]:
    """A prefill and a decode server, without voltana's plugin configured."""
    prefill, decode = fleet.get(*_pair_specs())
    return prefill, decode


@pytest.fixture
def trio(fleet: Fleet) -> tuple[Server, Server, Server]:
    """A prefill server and two decode servers, without voltana's plugin configured."""
    from servers import ServerSpec

    prefill, first, second = fleet.get(*_pair_specs(), ServerSpec(name="decode-1", role="decode"))
    return prefill, first, second


def _pair_specs() -> tuple[object, object]:
    from servers import ServerSpec

    return ServerSpec(name="prefill-0", role="prefill"), ServerSpec(name="decode-0", role="decode")
