"""What docs/sglang-router.md tells people to write and to type exists."""

from __future__ import annotations

import asyncio
import re
import tomllib
from pathlib import Path

import pytest
from router_cluster import cluster
from typer.testing import CliRunner

from voltana.errors import VoltanaError
from voltana.serving.config import parse_config
from voltana.serving.router import command as router_command
from voltana.serving.router import command_line, logs
from voltana.serving.router.limits import LimitsTable
from voltana.serving.router.routers import ROUTERS, make_routers
from voltana.serving.router.settings import RouterTable
from voltana_sglang import steer_command
from voltana_sglang.config import SglangConfig
from voltana_sglang.dialect.commands import sglang_dialect
from voltana_sglang.dialect.settings import SglangRouterTable

TEXT = (Path(__file__).parents[4] / "docs" / "sglang-router.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_configuration_is_accepted() -> None:
    text, limits = [body for kind, body in BLOCKS if kind == "toml"]
    settings = parse_config(tomllib.loads(text), SglangConfig).router
    assert [backend.role for backend in settings.backends] == ["prefill", "decode"]
    assert len(make_routers(settings)) == 2
    named = re.search(r"# decode_router = .*# (.*), MODULE:FACTORY", text)
    assert named is not None
    assert {*named[1].split(", "), "round-robin"} == set(ROUTERS)
    told = tomllib.loads(limits)["router"]
    assert told["max_body_mb"] == SglangRouterTable().max_body_mb
    assert LimitsTable.model_validate(told["limits"]) == LimitsTable()
    assert set(told["limits"]) == set(LimitsTable.model_fields)


@pytest.mark.parametrize("command", ["router", "steer"])
def test_the_command_lines_are_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = [
        found
        for _, body in BLOCKS
        for found in re.findall(rf"voltana-sglang {command} ((?:.*\\\n)*.*)", body)
    ]
    started = []
    assert "export VOLTANA_FEED_KEY=" in TEXT  # its agents are on other hosts
    monkeypatch.setenv("VOLTANA_FEED_KEY", "k" * 32)

    def instead(job: object) -> None:
        started.append(job)
        job.close()  # type: ignore[attr-defined]

    module = {"router": router_command, "steer": steer_command}[command]
    monkeypatch.setattr(module, "run_loop", instead)
    monkeypatch.setattr(logs, "log_to_stderr", lambda: None)
    app = module.typer.Typer()
    app.command()(getattr(module, command))
    arguments = line.replace("\\\n", " ").replace("URL", "http://h:").replace("...", "h:1").split()
    result = CliRunner().invoke(app, arguments, obj=sglang_dialect)
    assert not isinstance(result.exception, VoltanaError), result.exception
    assert result.exit_code == 0, result.output
    assert len(started) == 1
    assert command_line.run_loop is not instead


def test_the_listed_paths_are_served() -> None:
    tables = TEXT.split("## What it serves")[1].split("\n\n")
    paths = re.findall(r"`(/[^`]*)`", tables[1])
    administration = re.findall(r"`(GET|POST) (/[^`]*)`", tables[3])
    assert len(paths) >= 9
    assert len(administration) == 6
    assert len({*paths, *(path for _, path in administration)}) >= 12
    bodies: dict[str, dict[str, object]] = {
        "/router/drain": {"backend": "decode-0"},
        "/abort_request": {"abort_all": True},
    }

    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            for path in paths:
                status, answer = await pd.get(path)
                assert status in {200, 405}, (path, status, answer)
            for method, path in administration:
                body = bodies.get(path, {}) if method == "POST" else None
                status, answer = await pd.ask_admin(method, path, body)
                assert status == 200, (path, status, answer)
                if path not in {"/health", *paths}:
                    assert (await pd.post(path, body))[0] == 404

    asyncio.run(check())


def test_the_settings_and_sources_that_it_names_exist() -> None:
    named = set(re.findall(r"`(\w+_(?:s|ms|mb|flight|after|key|router))`", TEXT))
    assert named
    assert named <= {*RouterTable.model_fields, *LimitsTable.model_fields}
    for code in ("feed", "loads", "in-flight", "router-failed"):
        assert f"| `{code}` |" in TEXT
