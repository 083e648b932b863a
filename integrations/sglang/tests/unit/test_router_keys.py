"""Servers with an API key, an admin key, or both: who sends which, and what is ever shown."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from fake_sglang import fake_servers
from router_cluster import Cluster, cluster, until
from typer.testing import CliRunner

from tests.serving.work_gate import PATIENT
from voltana.errors import ConfigError
from voltana.serving.config import parse_config, read_config
from voltana.serving.profile.run import ProfileRunError
from voltana.serving.router.command_line import table_of
from voltana.serving.router.keys import Keys, find_keys
from voltana.serving.router.settings import RouterTable
from voltana_sglang.cli import make_app
from voltana_sglang.dialect.keys import KEY_NAMES
from voltana_sglang.dialect.profiled_server import SglangServer

if TYPE_CHECKING:
    from pathlib import Path

SECRET, ADMIN = "sk-do-not-show-me", "sk-admin-hidden"
LOADS = {"num_running_reqs": 0, "num_waiting_reqs": 0, "num_used_tokens": 0}
CLIENT = {"Authorization": f"Bearer {SECRET}"}


def run(body: Any) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await body()

    asyncio.run(limited())


def guard(pd: Cluster, *, admin: str | None = None) -> None:
    for server in pd.servers.values():
        server.api_key, server.admin_api_key, server.loads = SECRET, admin, LOADS


async def leave(pd: Cluster) -> None:
    """A client that asks, and goes away before its answer."""
    decode = pd.servers["decode-0"]
    decode.gate.close()
    task = asyncio.create_task(pd.post("/generate", {"text": "a"}, headers=CLIENT))
    await until(lambda: decode.gate.waiting)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await pd.quiet()
    decode.gate.open()


@pytest.fixture(autouse=True)
def no_keys_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOLTANA_SGLANG_API_KEY", raising=False)
    monkeypatch.delenv("VOLTANA_SGLANG_ADMIN_API_KEY", raising=False)


def test_the_admin_key_aborts_and_the_other_one_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    monkeypatch.setenv("VOLTANA_SGLANG_ADMIN_API_KEY", ADMIN)

    async def check() -> None:
        settings: dict[str, Any] = {"api_key_file": tmp_path / "key", "loads_period_s": 0.01}
        async with cluster(prefill=1, decode=1, wait=False, **settings) as pd:
            guard(pd, admin=ADMIN)
            await until(lambda: all(b.available for b in pd.service.pool))
            await until(lambda: pd.service.reports.fresh("decode-0", pd.service._time.now_s()))
            await leave(pd)
            await until(lambda: pd.servers["decode-0"].aborted)
            assert pd.servers["decode-0"].unauthorised == []
            assert pd.servers["prefill-0"].unauthorised == []
            seen = [headers["Authorization"] for headers in pd.servers["decode-0"].headers]
            assert seen == [f"Bearer {SECRET}"]  # the client's own, on its own request

    run(check)


def test_without_a_key_of_its_own_the_router_aborts_with_that_of_the_client() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            guard(pd)
            await leave(pd)
            await until(lambda: pd.servers["decode-0"].aborted)
            assert pd.servers["decode-0"].unauthorised == []

    run(check)


def test_a_refused_key_is_said_once_and_never_shown() -> None:
    async def check() -> None:
        wrong = "sk-wrong-and-hidden"
        settings: dict[str, Any] = {"api_key": wrong, "loads_period_s": 0.01}
        async with cluster(prefill=1, decode=1, wait=False, **settings) as pd:
            guard(pd, admin=ADMIN)  # before the router tires of asking for what is not there
            await until(lambda: all(b.available for b in pd.service.pool))
            with structlog.testing.capture_logs() as logs:
                pd.service.forwarder._aborts._log = structlog.get_logger("voltana.router")
                await leave(pd)
                await leave(pd)
                await until(lambda: "/abort_request" in pd.servers["decode-0"].unauthorised)
                await until(lambda: "/v1/loads" in pd.servers["decode-0"].unauthorised)
                await pd.service.forwarder.close()
            said = [
                entry["event"] for entry in logs if "refuses this router's key" in entry["event"]
            ]
            assert len([text for text in said if "what clients leave" in text]) == 1
            assert all("API_KEY" in text for text in said)
            for secret in (wrong, SECRET, ADMIN):
                assert secret not in str(logs)
            status, answer, _ = await pd.post("/generate", {"text": "a"}, headers=CLIENT)
            assert (status, len(answer["text"]) > 0) == (200, True)

    run(check)


def test_a_client_whose_key_may_not_abort_is_told_so() -> None:
    async def check() -> None:
        keys = {"api_key": SECRET, "admin_api_key": ADMIN}
        async with cluster(prefill=1, decode=1, **keys, **PATIENT) as pd:
            guard(pd, admin=ADMIN)
            decode = pd.servers["decode-0"]
            decode.gate.close()
            body = {"text": "a", "rid": "mine"}
            opened = asyncio.create_task(pd.post("/generate", body, headers=CLIENT))
            await until(lambda: decode.gate.waiting)
            status, answer, _ = await pd.post("/abort_request", {"rid": "mine"}, headers=CLIENT)
            assert (status, answer["error"]["code"]) == (401, "abort_refused")
            assert "--admin-api-key" in answer["error"]["message"]
            decode.gate.open()
            assert (await opened)[0] == 200
            everything = {"abort_all": True}
            assert (await pd.ask_admin("POST", "/abort_request", everything))[0] == 200

    run(check)


def test_a_calibration_flushes_with_the_admin_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        async with fake_servers(unified=1) as servers:
            server = servers["unified-0"]
            server.api_key, server.admin_api_key = SECRET, ADMIN
            server.info = {"max_total_num_tokens": 1000, "served_model_name": "tiny"}
            made = await asyncio.to_thread(SglangServer, server.url, 0, Keys(SECRET, ADMIN))
            await asyncio.to_thread(made._flush)
            assert (server.flushed, server.unauthorised) == (1, [])
            server.busy = 3  # refuses until it has put the last request away
            await asyncio.to_thread(made._flush)
            assert server.flushed == 2
            monkeypatch.setattr("voltana_sglang.dialect.profiled_server._IDLE_LIMIT_S", 0.2)
            server.busy = 10_000
            with pytest.raises(ProfileRunError, match="does not become idle"):
                await asyncio.to_thread(made._flush)
            made = await asyncio.to_thread(SglangServer, server.url, 0, Keys(SECRET))
            with pytest.raises(ProfileRunError, match=r"401.*_ADMIN_API_KEY") as error:
                await asyncio.to_thread(made._flush)
            assert SECRET not in str(error.value)
            with pytest.raises(ProfileRunError, match=r"401.*VOLTANA_SGLANG_API_KEY"):
                await asyncio.to_thread(SglangServer, server.url, 0)

    run(check)


def test_files_come_before_the_environment_and_are_relative_to_the_configuration(
    tmp_path: Path,
) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    config = tmp_path / "voltana.toml"
    config.write_text('[router]\napi_key_file = "key"\n')
    environment = {"VOLTANA_SGLANG_API_KEY": "other", "VOLTANA_SGLANG_ADMIN_API_KEY": ADMIN}
    for table in (read_config(config).router, RouterTable(**table_of(config, "router"))):
        keys = find_keys(table, environment, KEY_NAMES)
        assert (keys.api, keys.admin) == (SECRET, ADMIN)
        assert SECRET not in repr(keys) + repr(table)
    assert find_keys(RouterTable(), {}) == Keys()
    assert Keys(SECRET).for_admin() == Keys(SECRET).usual() == CLIENT


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "one line, the key"), (f"{SECRET}\n{SECRET}", "one line"), (None, "No such file")],
)
def test_a_file_without_a_key_is_named_and_its_content_is_not(
    tmp_path: Path, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    with pytest.raises(ConfigError, match=said) as error:
        find_keys(RouterTable(api_key_file=tmp_path / "key"), {})
    assert SECRET not in str(error.value)


def test_a_key_of_the_wrong_type_is_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"api_key = '.not shown.'.*quotes") as error:
        parse_config({"router": {"api_key": 123454321}})
    assert "123454321" not in str(error.value)
    with pytest.raises(ConfigError, match="Keep one"):
        parse_config({"router": {"api_key": SECRET, "api_key_file": "/k"}})


def test_print_shows_no_key(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(
        '[launch]\nmodel_path = "m"\nunified = 1\n'
        f'arguments = ["--api-key", "{SECRET}", "--admin-api-key={ADMIN}"]\n'
    )
    done = CliRunner().invoke(make_app(), ["launch", str(path), "--print"])
    assert done.exit_code == 0
    assert "--api-key '***' '--admin-api-key=***'" in done.output
    assert SECRET not in done.output
    assert ADMIN not in done.output
