from __future__ import annotations

import contextlib
import importlib.util
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from voltana.errors import ConfigError, VoltanaError
from voltana.serving.config import Config
from voltana.serving.launch import command
from voltana.serving.launch.allocation import allocate
from voltana.serving.launch.command import read_launch
from voltana.serving.launch.config import LaunchTable
from voltana.serving.launch.instances import instances
from voltana.serving.launch.plan import cluster
from voltana.serving.launch.ports import check_ports
from voltana.serving.router.settings import RouterTable
from voltana_sglang.cli import make_app
from voltana_sglang.launch_plan import SglangServers

CONFIG = Path("/etc/voltana/cluster.toml")
ENGINE = SglangServers()
UUIDS = tuple(f"GPU-{index}000aaaa-0000-0000-0000-00000000000{index}" for index in range(8))
CASE_02 = """
[launch]
model_path = "."
prefill = 1
decode = 1
gpus = [0, 1]
[engine]
hardware = "h100-sxm"
model = "llama-3.1-8b"
[actuator]
kind = "daemon"
"""


def table(**values: object) -> LaunchTable:
    return LaunchTable.model_validate({"model_path": "m", "prefill": 1, "decode": 2} | values)


def plan(made: LaunchTable, *, environment=None, uuids=(), dry_run=False, **tables: object):
    fleet = instances(made, allocate(made, environment or {}, uuids))
    config = Config.model_validate({"router": {"port": 30000}} | tables).model_copy(
        update={"launch": made}
    )
    return cluster(ENGINE, fleet, config, CONFIG, dry_run=dry_run)


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
        for port in (one.port, one.transfer_port, one.control_port, one.feed_port)
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
    _, agents, (router,) = plan(
        table(),
        agent={"host": "::1", "feed_host": "10.0.0.1"},
        router={"port": 30000, "host": "::"},
    )
    assert agents[0].ready_url == "http://[::1]:31200/health"
    assert option(router.command, "--feed") == "prefill-0=tcp://10.0.0.1:31300"
    assert router.ready_url == "http://[::]:30000/health"


def test_the_router_may_take_as_long_over_open_requests_as_the_file_says() -> None:
    (made,) = plan(table(), router={"port": 30000, "drain_timeout_s": 120.0})[-1]
    assert made.grace_s > 120.0


def test_servers_are_not_started_again_and_the_others_are() -> None:
    servers, agents, router = plan(table())
    assert not any(spec.restarts for spec in servers)
    assert all(spec.restarts for spec in (*agents, *router))


def test_a_port_that_is_taken_is_named_before_anything_starts() -> None:
    with socket.socket() as listener:
        taken = free_ports() + 201
        listener.bind(("127.0.0.1", taken))
        listener.listen()
        fleet = instances(table(first_port=taken - 201))
        with pytest.raises(ConfigError) as error:
            check_ports(ENGINE, fleet, RouterTable(port=30000))
        assert f"launch.first_port = {taken - 201}" in str(error.value)
        assert f"port {taken} (the agent of decode-0) is free" in str(error.value)
        with pytest.raises(ConfigError, match=rf"router\.port = {taken} .* an earlier launch"):
            check_ports(ENGINE, [], RouterTable(port=taken))
    check_ports(ENGINE, [], RouterTable(port=taken))


def test_the_router_may_not_listen_where_a_server_does() -> None:
    fleet = instances(table(first_port=free_ports()))
    with pytest.raises(ConfigError, match=r"router\.port.*another port than that of decode-0"):
        check_ports(ENGINE, fleet, RouterTable(port=fleet[1].port))


def free_ports() -> int:
    """A port from which on those of three servers are free; found, for others run here, too."""
    for first in range(41000, 60000, 500):
        try:
            check_ports(ENGINE, instances(table(first_port=first)), RouterTable(port=first + 400))
        except ConfigError:
            continue
        return first
    pytest.fail("no free ports")


def test_gpus_are_handed_out_by_tensor_parallel_group() -> None:
    servers, agents, _ = plan(table(tensor_parallel=2, gpus=[7, 6, 5, 4, 3, 2]))
    seen = [dict(spec.environment)["CUDA_VISIBLE_DEVICES"] for spec in servers]
    assert seen == ["7,6", "5,4", "3,2"]
    assert {dict(spec.environment)["CUDA_DEVICE_ORDER"] for spec in servers} == {"PCI_BUS_ID"}
    assert [option(agent.command, "--gpus") for agent in agents] == seen
    assert all(option(spec.command, "--tp-size") == "2" for spec in servers)


def test_without_gpus_devices_are_left_alone() -> None:
    servers, agents, _ = plan(table(gpus=[]))
    assert not any(key.startswith("CUDA") for spec in servers for key, _ in spec.environment)
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
        ({"gpus": [0, 1]}, "3 different ones"),
        ({"gpus": [0, 0, 1]}, "3 different ones"),
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


@pytest.fixture
def print_launch(tmp_path: Path, monkeypatch):
    """What ``launch --print`` says: command lines by process, and the remarks beside them."""

    def run(text: str, uuids: tuple[str, ...] = (), **environment: str):
        path = tmp_path / "cluster.toml"
        path.write_text(text)
        monkeypatch.setattr(command, "visible_uuids", lambda: uuids)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        said = CliRunner().invoke(make_app(), ["launch", str(path), "--print"])
        assert not (tmp_path / "voltana-logs").exists()
        if said.exception is not None:
            raise said.exception
        return dict(line.split(": ", 1) for line in said.stdout.splitlines()), said.stderr

    return run


def test_print_starts_nothing(print_launch) -> None:
    lines, remarks = print_launch(
        '[launch]\nmodel_path = "m"\nprefill = 1\ndecode = 1\ngpus = []\n[router]\nport = 30123'
    )
    names = ["prefill-0", "decode-0", "agent-prefill-0", "agent-decode-0", "router"]
    assert list(lines) == names
    assert "--port 30123" in lines["router"]
    assert remarks == ""


def test_case_02_engine_and_agent_mean_the_same_board(print_launch) -> None:
    """CUDA counts the fastest board first, whoever sets clocks by PCI bus."""
    lines, remarks = print_launch(CASE_02, UUIDS)
    for index, name in enumerate(("prefill-0", "decode-0")):
        order = f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={index} "
        assert lines[name].startswith(order)
        assert f"--gpus {UUIDS[index]} " in lines[f"agent-{name}"]
        said = f"{name:<12} computes on GPU {index} ({UUIDS[index]}), counted by PCI bus"
        assert said in remarks.splitlines()


@pytest.mark.parametrize(
    ("inherited", "uuids", "cuda", "agents"),
    [
        ("4,5", UUIDS, ["4", "5"], [UUIDS[4], UUIDS[5]]),
        ("5,4", UUIDS, ["5", "4"], [UUIDS[5], UUIDS[4]]),
        (f"{UUIDS[6]},{UUIDS[2]}", UUIDS, ["6", "2"], [UUIDS[6], UUIDS[2]]),
        ("GPU-6,GPU-2000", UUIDS, ["6", "2"], [UUIDS[6], UUIDS[2]]),
        ("3, 1,-1,0", UUIDS, ["3", "1"], [UUIDS[3], UUIDS[1]]),
        # No driver to ask: names are handed on as they are.
        ("4,5", (), ["4", "5"], ["4", "5"]),
        ("GPU-6,GPU-2", (), ["GPU-6", "GPU-2"], ["GPU-6", "GPU-2"]),
    ],
)
def test_case_02_an_inherited_allocation_is_the_pool(
    print_launch, inherited: str, uuids: tuple[str, ...], cuda: list[str], agents: list[str]
) -> None:
    for text in (CASE_02, CASE_02.replace("gpus = [0, 1]\n", "")):
        lines, remarks = print_launch(text, uuids, CUDA_VISIBLE_DEVICES=inherited)
        assert f"CUDA_VISIBLE_DEVICES={inherited} was inherited" in remarks
        for name, index, agent in zip(("prefill-0", "decode-0"), cuda, agents, strict=True):
            assert f"CUDA_VISIBLE_DEVICES={index} " in lines[name]
            assert f"--gpus {agent} " in lines[f"agent-{name}"]


@pytest.mark.parametrize(
    ("inherited", "gpus", "said"),
    [
        ("MIG-5f1b,MIG-77aa", None, r"CUDA_VISIBLE_DEVICES = 'MIG-5f1b'.*whole GPUs.*nvidia-smi"),
        ("MIG-GPU-5f1b/1/0", [0, 1], r"no clock of its own: have whole GPUs allocated"),
        ("0:1,0:2", [0, 1], r"CUDA_VISIBLE_DEVICES = '0:1'"),
        (None, ["MIG-5f1b", "GPU-1"], r"launch.gpus = 'MIG-5f1b'.*whole GPUs"),
        ("4", None, r"CUDA_VISIBLE_DEVICES = '4' is not allowed: must be 2 GPUs"),
        ("", None, r"CUDA_VISIBLE_DEVICES = ''.*2 GPUs"),
        ("NoDevFiles", None, r"CUDA_VISIBLE_DEVICES = ''.*2 GPUs"),
        ("4,5", [4, 5], r"launch.gpus = 4 .*below 2.*count within CUDA_VISIBLE_DEVICES=4,5"),
        ("4,5", [UUIDS[4], UUIDS[6]], r"launch.gpus = 'GPU-6.*The others are not yours"),
        (None, [7, 8], r"launch.gpus = 8 .*below 8"),
        (None, ["GPU-7", "GPU-9"], r"launch.gpus = 'GPU-9'.*one of GPU-0"),
        (None, ["GPU-", "GPU-1"], r"the UUID of one GPU of"),
        (None, ["GPU-1", 1], r"different GPUs"),
        ("1,1", None, r"CUDA_VISIBLE_DEVICES = '1,1'.*different GPUs"),
        (f"1,{UUIDS[1]}", None, r"CUDA_VISIBLE_DEVICES = .*different GPUs"),
        ("9,1", None, r"CUDA_VISIBLE_DEVICES = '9'.*below 8"),
        ("GPU-9,1", [0, 1], r"CUDA_VISIBLE_DEVICES = 'GPU-9'.*the UUID of one GPU"),
    ],
)
def test_case_02_what_was_not_allocated_is_refused(
    inherited: str | None, gpus: list[int | str] | None, said: str
) -> None:
    environment = {} if inherited is None else {"CUDA_VISIBLE_DEVICES": inherited}
    with pytest.raises(ConfigError, match=said):
        allocate(table(decode=1, gpus=gpus), environment, UUIDS)


@pytest.mark.parametrize("uuids", [(), UUIDS], ids=["no driver", "driver"])
@pytest.mark.parametrize("inherited", ["all", "nonsense,1", "gpu-1,2", "1;2", "\u0663,1", "1 2"])
def test_case_02_what_cuda_could_not_read_is_refused(inherited: str, uuids: tuple[str]) -> None:
    with pytest.raises(ConfigError, match=r"CUDA_VISIBLE_DEVICES = .*indices or UUIDs"):
        allocate(table(decode=1), {"CUDA_VISIBLE_DEVICES": inherited}, uuids)


def test_gpus_may_be_named_by_uuid() -> None:
    made = table(gpus=["GPU-7", UUIDS[0], 3])
    servers, agents, _ = plan(made, uuids=UUIDS)
    seen = [dict(spec.environment)["CUDA_VISIBLE_DEVICES"] for spec in servers]
    assert seen == ["7", "0", "3"]
    assert [option(a.command, "--gpus") for a in agents] == [UUIDS[7], UUIDS[0], UUIDS[3]]


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ('[engine]\nhardware = "h100-sxn"\nmodel = "llama-3.1-8b"', "h100-sxm"),
        ('[engine]\nhardware = "h100-sxm"\nmodel = "llama-9"', "llama-3.1-8b"),
        ('[policy]\ncontroller = "volt"', "unknown policy 'volt'"),
        ('[policy]\npredictor = "no_such_module:Make"', "no_such_module"),
        ('[policy]\nlevels = "some"', "some"),
        ('[policy]\nprofile = "none.json"', "none.json"),
        ('[router]\ndecode_router = "nearest"', "unknown decode_router 'nearest'"),
    ],
)
def test_print_checks_what_the_processes_would_refuse(print_launch, tables: str, said: str) -> None:
    launched = '[launch]\nmodel_path = "m"\nunified = 1\ngpus = []\n'
    with pytest.raises(VoltanaError, match=said):
        print_launch(launched + tables)


def test_each_process_runs_where_it_lives(tmp_path: Path) -> None:
    made = table(gpus=[], interpreter="/opt/sglang/bin/python")
    servers, agents, (router,) = plan(
        made, agent={"interpreter": ["docker", "exec", "a", "python"]}
    )
    for spec in servers:
        assert spec.command[:3] == ("/opt/sglang/bin/python", "-m", "sglang.launch_server")
    for spec in agents:
        assert spec.command[:7] == (
            "docker", "exec", "a", "python", "-m", "voltana_sglang", "agent",
        )  # fmt: skip
    assert router.command[:4] == (sys.executable, "-m", "voltana_sglang", "router")
    servers, agents, _ = plan(table(gpus=[]))
    assert {spec.command[0] for spec in (*servers, *agents)} == {sys.executable}


def test_what_a_server_would_say_late_is_said_at_once(tmp_path: Path) -> None:
    """The Python of the servers is asked itself: it need not be that of the launch."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    for model in ("meta-llama/Llama-3.1-8B-Instruct", str(tmp_path)):
        ENGINE.check(table(model_path=model, interpreter=str(python)))
    for model in (str(tmp_path / "none"), "./none", "~/none"):
        with pytest.raises(ConfigError, match=r"launch\.model_path = '.*none'.*a folder"):
            ENGINE.check(table(model_path=model, interpreter=str(python)))
    python.write_text("#!/bin/sh\necho sglang >&2; exit 1\n")
    with pytest.raises(ConfigError, match=f"environment of {python}: sglang. .*launch.interpreter"):
        ENGINE.check(table(model_path=str(tmp_path), interpreter=str(python)))
    with pytest.raises(ConfigError, match=r"launch\.interpreter = '/none/python'"):
        ENGINE.check(table(interpreter="/none/python"))


def test_a_python_without_sglang_is_told_from_one_with_it(tmp_path: Path) -> None:
    there = importlib.util.find_spec("sglang") is not None
    with (
        contextlib.nullcontext() if there else pytest.raises(ConfigError, match=r": sglang\. Must")
    ):
        ENGINE.check(table(model_path=str(tmp_path)))


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
