"""What docs/vllm.md tells people to write and to type exists."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from voltana.serving.config import parse_config
from voltana.serving.dialect import Dialect, dialect_named
from voltana_vllm import CONFIG_VARIABLE, INSTANCE_VARIABLE, ROLE_VARIABLE
from voltana_vllm.config import VllmConfig
from voltana_vllm.dialect.keys import KEY_NAMES
from voltana_vllm.hooks.contract import FIRST_VERSION, NEXT_VERSION

ROOT = Path(__file__).parents[4]
TEXT = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_configuration_is_accepted() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    config = parse_config(tomllib.loads(text), VllmConfig)
    assert config.launch is not None
    assert config.launch.engine == "vllm"
    assert len(config.launch.instances()) == 3


@pytest.mark.parametrize("command", ["agent", "launch", "profile", "router"])
def test_every_command_answers_help_and_is_described(command: str) -> None:
    assert f"voltana-vllm {command}" in TEXT
    done = subprocess.run(
        [sys.executable, "-m", "voltana_vllm", command, "--help"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith(f"Usage: voltana-vllm {command}")


def test_variables_and_versions_are_those_of_the_code() -> None:
    for name in (CONFIG_VARIABLE, INSTANCE_VARIABLE, ROLE_VARIABLE, KEY_NAMES.api_variable):
        assert name in TEXT
    (listed,) = re.findall(r"VLLM_MATRIX \?= (.*)", MAKEFILE)
    versions = [tuple(map(int, version.split("."))) for version in listed.split()]
    assert versions[0] == FIRST_VERSION
    assert versions[-1] < NEXT_VERSION
    assert len(versions) == 10
    assert f"{listed.split()[0]} to {listed.split()[-1]}" in TEXT


def test_a_launch_finds_the_engine_that_it_names() -> None:
    for name in ("sglang", "vllm"):
        assert dialect_named(name, Dialect()).engine == name
    own = Dialect(engine="own")
    assert dialect_named("", own) is dialect_named("own", own) is own
    with pytest.raises(ValueError, match=r"vllm"):
        dialect_named("vlm", own)
