from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from voltana.errors import ConfigError
from voltana.serving.config import AgentTable
from voltana.serving.launch.command import check_engine, launch, read_launch
from voltana.serving.launch.config import LaunchTable
from voltana.serving.launch.plan import cluster, instances
from voltana.serving.launch.ports import check_ports
from voltana.serving.router.settings import RouterTable
from voltana_sglang.cli import make_app

CONFIG = Path("/etc/voltana/cluster.toml")
ROUTER, AGENT = RouterTable(port=30000), AgentTable()


def table(**values: object) -> LaunchTable:
    return LaunchTable.model_validate({"model_path": "m", "prefill": 1, "decode": 2} | values)


def plan(made: LaunchTable, **options: bool):
    return cluster(made, CONFIG, ROUTER, AGENT, **options)


def option(command: tuple[str, ...], name: str) -> str:
    return command[command.index(name) + 1]


def test_servers_come_first_then_agents_then_the_router() -> None:
    servers, agents, router = plan(table())
    assert [spec.name for spec in servers] == ["prefill-0", "decode-0", "decode-1"]
    assert [spec.name for spec in agents] == [f"agent-{spec.name}" for spec in servers]
    assert [spec.name for spec in router] == ["router"]


def test_no_two_processes_share_a_port() -> None:
    fleet = instances(table(prefill=3, decode=4))
    ports = [
        port
        for one in fleet
        for port in (one.port, one.bootstrap_port, one.control_port, one.feed_port)
    ]
    assert len(set(ports)) == len(ports)


def test_a_pair_knows_its_roles_and_transfer() -> None:
    (prefill, decode, _), _, (router,) = plan(table())
    assert option(prefill.command, "--disaggregation-mode") == "prefill"
    assert option(decode.command, "--disaggregation-mode") == "decode"
    transfer = option(prefill.command, "--disaggregation-bootstrap-port")
    assert option(router.command, "--prefill") == f"http://127.0.0.1:31000,{transfer}"
    assert router.command.count("--decode") == 2


def test_the_router_hears_every_agent() -> None:
    _, agents, (router,) = plan(table())
    feeds = [v for k, v in zip(router.command, router.command[1:], strict=False) if k == "--feed"]
    for agent in agents:
        name, port = option(agent.command, "--instance"), option(agent.command, "--feed-port")
        assert f"{name}=tcp://127.0.0.1:{port}" in feeds


def test_addresses_of_agents_are_those_of_the_file() -> None:
    agent = AgentTable(host="::1", feed_host="10.0.0.1")
    _, agents, (router,) = cluster(table(), CONFIG, RouterTable(port=30000, host="::"), agent)
    assert agents[0].ready_url == "http://[::1]:31200/health"
    assert option(router.command, "--feed") == "prefill-0=tcp://10.0.0.1:31300"
    assert router.ready_url == "http://[::]:30000/health"


def test_the_router_may_take_as_long_over_open_requests_as_the_file_says() -> None:
    router = RouterTable(port=30000, drain_timeout_s=120.0)
    (made,) = cluster(table(), CONFIG, router, AGENT)[-1]
    assert made.grace_s > 120.0


def test_servers_are_not_started_again_and_the_others_are() -> None:
    servers, agents, router = plan(table())
    assert not any(spec.restarts for spec in servers)
    assert all(spec.restarts for spec in (*agents, *router))


def test_a_port_that_is_taken_is_named_before_anything_starts() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        fleet = instances(table(first_port=taken - 201))
        with pytest.raises(ConfigError) as error:
            check_ports(fleet, 30000)
        assert f"launch.first_port = {taken - 201}" in str(error.value)
        assert f"port {taken} (the agent of decode-0) is free" in str(error.value)
        with pytest.raises(ConfigError, match=rf"router\.port = {taken} .* an earlier launch"):
            check_ports([], taken)
    check_ports([], taken)


def test_the_router_may_not_listen_where_a_server_does() -> None:
    fleet = instances(table(first_port=free_ports()))
    with pytest.raises(ConfigError, match=r"router\.port.*another port than that of decode-0"):
        check_ports(fleet, fleet[1].port)


def free_ports() -> int:
    """A port from which on those of three servers are free; found, for others run here, too."""
    for first in range(41000, 60000, 500):
        try:
            check_ports(instances(table(first_port=first)), first + 400)
        except ConfigError:
            continue
        return first
    pytest.fail("no free ports")


def test_gpus_are_handed_out_by_tensor_parallel_group() -> None:
    servers, agents, _ = plan(table(tensor_parallel=2, gpus=[7, 6, 5, 4, 3, 2]))
    seen = [dict(spec.environment)["CUDA_VISIBLE_DEVICES"] for spec in servers]
    assert seen == ["7,6", "5,4", "3,2"]
    assert [option(agent.command, "--gpus") for agent in agents] == seen
    assert all(option(spec.command, "--tp-size") == "2" for spec in servers)


def test_without_gpus_devices_are_left_alone() -> None:
    servers, agents, _ = plan(table(gpus=[]))
    assert all("CUDA_VISIBLE_DEVICES" not in dict(spec.environment) for spec in servers)
    assert all("--gpus" not in agent.command for agent in agents)


def test_the_plugin_is_told_its_configuration() -> None:
    servers, _, _ = plan(table(environment={"MC_FORCE_TCP": "1"}))
    for spec in servers:
        own = dict(spec.environment)
        assert own["VOLTANA_SGLANG_CONFIG"] == str(CONFIG)
        assert own["VOLTANA_SGLANG_INSTANCE"] == spec.name
        assert own["MC_FORCE_TCP"] == "1"


def test_arguments_go_to_those_they_are_meant_for() -> None:
    made = table(arguments=["--a"], prefill_arguments=["--p"], decode_arguments=["--d"])
    (prefill, decode, _), _, _ = plan(made)
    assert {"--a", "--p"} <= set(prefill.command)
    assert "--d" not in prefill.command
    assert {"--a", "--d"} <= set(decode.command)


def test_a_dry_run_is_passed_to_the_agents_alone() -> None:
    servers, agents, router = plan(table(), dry_run=True)
    assert all("--dry-run" in agent.command for agent in agents)
    assert not any("--dry-run" in spec.command for spec in (*servers, *router))


def test_unified_servers_need_no_pair() -> None:
    servers, _, (router,) = plan(table(prefill=0, decode=0, unified=2))
    assert [spec.kind for spec in servers] == ["unified", "unified"]
    assert router.command.count("--unified") == 2


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"prefill": 0}, "1 or more each"),
        ({"unified": 1}, "0 beside unified servers"),
        ({"gpus": [0, 1]}, "3 different indices"),
        ({"gpus": [0, 0, 1]}, "3 different indices"),
    ],
)
def test_clusters_that_cannot_serve_are_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=text):
        table(**values)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no table [launch]"),
        ("[launch", "is not TOML"),
        ("[launch]\nprefill = 1\ndecode = 1", "model_path"),
        ('[launch]\nmodel_path = "m"\nprefil = 1', "prefil"),
        ('[launch]\nmodel_path = "m"\nprefill = 1\ndecode = 1\nhost = 3', "host"),
        ('[launch]\nmodel_path = "m"\nunified = 1\n[router]\nport = -1', "port"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_launch(path)
    assert complaint in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        read_launch(tmp_path / "none.toml")


def test_print_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text('[launch]\nmodel_path = "m"\nprefill = 1\ndecode = 1\n[router]\nport = 30123')
    launch(path, only_print=True)
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines()] == [
        "prefill-0",
        "decode-0",
        "agent-prefill-0",
        "agent-decode-0",
        "router",
    ]
    assert "--port 30123" in said
    assert not (tmp_path / "voltana-logs").exists()


def test_what_a_server_would_say_late_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    check_engine("meta-llama/Llama-3.1-8B-Instruct")
    check_engine(str(tmp_path))
    for path in (str(tmp_path / "none"), "./none", "~/none"):
        with pytest.raises(ConfigError, match=r"launch\.model_path = '.*none'.*a folder"):
            check_engine(path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="SGLang is not installed in the environment of"):
        check_engine(str(tmp_path))


def test_the_versions_are_told() -> None:
    done = CliRunner().invoke(make_app(), ["--version"])
    assert done.exit_code == 0
    assert re.match(r"voltana-sglang \d+\.\d+\.\d+, SGLang ", done.output)


@pytest.mark.parametrize(("before", "count"), [(signal.SIG_DFL, 1), (signal.SIG_IGN, 0)])
def test_a_lost_terminal_ends_a_launch_unless_it_was_told_to_stay(before, count: int) -> None:
    program = (
        "import os, signal; from voltana.serving.launch.command import _Signals;"
        f"signal.signal(signal.SIGHUP, signal.Handlers({int(before)})); signals = _Signals();"
        "os.kill(os.getpid(), signal.SIGHUP); print(signals.count)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == count
