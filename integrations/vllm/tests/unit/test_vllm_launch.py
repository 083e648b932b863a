"""How servers are started with vLLM, as a launch prints it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from voltana.serving.launch.allocation import Gpu
from voltana.serving.launch.config import LaunchTable
from voltana.serving.launch.instances import instances
from voltana.serving.launch.plan import cluster
from voltana_vllm.config import VllmConfig
from voltana_vllm.launch_plan import VllmServers

ENGINE = VllmServers()
CONFIG = Path("/etc/voltana.toml")


def table(**more):
    return LaunchTable(**{"model_path": "m", "prefill": 1, "decode": 1, **more})


def test_servers_of_a_pair_transfer_over_channels_of_their_own():
    made = [ENGINE.server(i, table(), CONFIG) for i in instances(table())]
    for spec, role, kv_role in zip(
        made, ("prefill", "decode"), ("kv_producer", "kv_consumer"), strict=True
    ):
        words, own = list(spec.command), dict(spec.environment)
        assert words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
        transfer = json.loads(words[words.index("--kv-transfer-config") + 1])
        assert transfer == {"kv_connector": "NixlConnector", "kv_role": kv_role}
        assert own["VOLTANA_VLLM_CONFIG"] == str(CONFIG)
        assert (own["VOLTANA_VLLM_INSTANCE"], own["VOLTANA_VLLM_ROLE"]) == (f"{role}-0", role)
        assert own["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "127.0.0.1"
    ports = [dict(spec.environment)["VLLM_NIXL_SIDE_CHANNEL_PORT"] for spec in made]
    assert ports == ["31100", "31101"]
    listened = [port.number for i in instances(table()) for port in ENGINE.ports(i)]
    assert listened == [31000, 31100, 31001, 31101]


def test_a_unified_server_transfers_nothing():
    alone = table(prefill=0, decode=0, unified=1)
    (instance,) = instances(alone)
    spec = ENGINE.server(instance, alone, CONFIG)
    assert "--kv-transfer-config" not in spec.command
    assert "VLLM_NIXL_SIDE_CHANNEL_PORT" not in dict(spec.environment)
    assert [port.number for port in ENGINE.ports(instance)] == [31000]


@pytest.mark.parametrize("own", [["--kv-transfer-config", "{}"], ["--kv-transfer-config={}"]])
def test_a_connector_of_the_users_own_stands(own):
    given = table(arguments=own)
    for instance in instances(given):
        words = ENGINE.server(instance, given, CONFIG).command
        assert sum(word.startswith("--kv-transfer-config") for word in words) == 1


def test_gpus_and_parallelism_are_handed_on():
    given = table(tensor_parallel=2, host="0.0.0.0")
    gpus = [(Gpu(uuid="GPU-a", cuda="0"), Gpu(uuid="GPU-b", cuda="1")), ()]
    first = ENGINE.server(instances(given, gpus)[0], given, CONFIG)
    words = list(first.command)
    assert words[words.index("--tensor-parallel-size") + 1] == "2"
    assert dict(first.environment)["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "VLLM_NIXL_SIDE_CHANNEL_HOST" not in dict(first.environment)


def test_the_router_is_told_no_port_of_transfers_which_it_would_refuse():
    config = VllmConfig(launch=table())
    fleet = instances(table())
    stages = cluster(ENGINE, fleet, config, CONFIG, names_transfers=False)
    (router,) = stages[-1]
    assert router.command[router.command.index("--prefill") + 1] == "http://127.0.0.1:31000"
    assert all("voltana_vllm" in spec.command for stage in stages[1:] for spec in stage)
