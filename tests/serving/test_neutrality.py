"""The router knows no engine, and has one way out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import voltana.serving

SERVING = Path(voltana.serving.__file__).parent
ROUTER = sorted((SERVING / "router").glob("*.py"))
INTEGRATIONS = Path(__file__).parents[2] / "integrations"
SGLANG = INTEGRATIONS / "sglang" / "voltana_sglang"
VLLM = INTEGRATIONS / "vllm" / "voltana_vllm"
ENGINES_OWN = re.compile(r"sglang|vllm|bootstrap_|kv_transfer|/generate\b", re.IGNORECASE)
CLIENT = re.compile(r"^\s*import (aiohttp|httpx|requests|urllib)|ClientSession", re.MULTILINE)


@pytest.mark.parametrize("path", [*ROUTER, SERVING / "engine.py"], ids=lambda path: path.stem)
def test_no_module_of_the_router_names_an_engine(path: Path) -> None:
    assert ENGINES_OWN.findall(path.read_text(encoding="utf-8")) == []


def test_one_module_opens_http_calls() -> None:
    folders = (SGLANG / "dialect", SGLANG / "steer", VLLM / "dialect")
    files = [*ROUTER, *(path for folder in folders for path in folder.glob("*.py"))]
    found = {path.name for path in files if CLIENT.search(path.read_text(encoding="utf-8"))}
    # A calibration runs in a process of its own, without a loop.
    assert found == {"connections.py"}
