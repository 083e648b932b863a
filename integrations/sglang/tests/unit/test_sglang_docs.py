"""What docs/sglang.md, and the two pages beside it, tell people to write and to type exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from voltana.cli.top_view import Answer, render
from voltana.serving.config import parse_config
from voltana_actuatord.daemon.settings import DaemonSettings
from voltana_sglang.config import SglangConfig
from voltana_sglang.dialect.keys import ADMIN_API_KEY_VARIABLE, API_KEY_VARIABLE

ROOT = Path(__file__).parents[4]
PAGES = ("sglang", "sglang-operation", "sglang-developers")
TEXT = "\n".join((ROOT / "docs" / f"{page}.md").read_text() for page in PAGES)
BLOCKS = re.findall(r"^ *```(\w*)\n(.*?)^ *```", TEXT, flags=re.DOTALL | re.MULTILINE)
EXPORTS = re.findall(r"([A-Z_]+)=(\S+)", TEXT)
FILES = [body for kind, body in BLOCKS if kind == "toml"]
TOML = ["\n".join(line.strip() for line in body.splitlines()) for body in FILES]


def test_the_configuration_is_accepted() -> None:
    config, cpu = (
        parse_config(tomllib.loads(body), SglangConfig) for body in TOML if "[launch]" in body
    )
    assert config.launch is not None
    assert len(config.launch.instances()) == 3
    assert config.actuator.kind == "daemon"
    assert cpu.launch is not None
    assert cpu.launch.gpus == ()
    assert set(cpu.launch.environment.items()) <= set(EXPORTS)
    for argument in (*cpu.launch.arguments, *cpu.launch.decode_arguments):
        assert TEXT.count(argument) >= 2, argument  # as in the servers that are started by hand


def test_the_sources_of_keys_are_those_that_are_looked_at() -> None:
    (text,) = [body for body in TOML if "api_key_file" in body]
    router = parse_config(tomllib.loads(text), SglangConfig).router
    assert str(router.api_key_file) == "/etc/voltana/api-key"
    assert str(router.admin_api_key_file) == "/etc/voltana/admin-api-key"
    assert f"or {API_KEY_VARIABLE}\n" in text + "\n"
    assert f"or {ADMIN_API_KEY_VARIABLE}\n" in text + "\n"


def test_the_rule_of_the_daemon_is_accepted() -> None:
    (text,) = [body for body in TOML if "[[allow]]" in body]
    assert DaemonSettings.model_validate(tomllib.loads(text)).allow[0].users == ("serving",)


@pytest.mark.parametrize("command", ["agent", "launch", "profile", "router", "steer"])
def test_every_command_answers_help_and_is_described(command: str) -> None:
    assert f"voltana-sglang {command}" in TEXT
    done = subprocess.run(
        [sys.executable, "-m", "voltana_sglang", command, "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    text = "".join(re.findall(rf"voltana-sglang {command} [^`]*", TEXT))
    for flag in set(re.findall(r"--[a-z-]+", text)):
        assert flag in done.stdout, flag


def test_the_makefile_has_the_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", TEXT)):
        assert f"\n{target}:" in makefile, target


def test_the_listed_keys_are_those_that_top_shows() -> None:
    from rich.console import Console

    listed = re.findall(r"`(\w+)`", TEXT.split("## What an agent answers")[1].split("`GET /met")[0])
    keys = [key for key in listed if key not in {"null"}]
    numbers = {key: 0.5 for key in keys if key not in {"instance", "role", "health", "dry_run"}}
    promised = {"itl": {"missed": 1.0, "bound": 15.5, "share_promised": 0.99}}
    numbers |= {
        "guarantee": {"missed": 1.0, "bound": 15.5, "lost": 0, "requests": promised},
        "viability": {"broken_share": 0.0, "outside_share": 0.0},
    }
    status = {"instance": "i", "role": "decode", "health": "ok", "dry_run": False} | numbers
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render([Answer(address="http://x", status=status)]))
    row = next(line for line in capture.get().splitlines() if "decode" in line)
    assert "-" not in row.replace("decode-", ""), row
