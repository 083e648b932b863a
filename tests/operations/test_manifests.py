"""Manifests of Kubernetes: by the API's schemas, by our own readers, and least privilege."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from voltana.serving.config import parse_config
from voltana_actuatord.daemon.settings import DaemonSettings
from voltana_sglang.config import SglangConfig

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
LISTED = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS = [
    found
    for file in FILES
    for found in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    if found["kind"] != "Kustomization"
]


def named(kind, name):
    (found,) = [o for o in OBJECTS if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


def pods():
    return {
        o["metadata"]["name"]: o["spec"]["template"]
        for o in OBJECTS
        if o["kind"] in {"DaemonSet", "StatefulSet", "Deployment"}
    }


@pytest.mark.parametrize("version", ["1.27", "1.31", "1.37"])
def test_the_api_s_schemas_accept_every_object(version):
    validate = pytest.importorskip(
        "kubernetes_validate", reason="schemas come with `make test-operations`"
    )
    for found in OBJECTS:
        validate.validate(found, version, strict=True)
    broken = named("Deployment", "voltana-router") | {"spec": {"replica": 1}}
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, version, strict=True)


def test_every_file_is_applied_and_every_image_is_named():
    assert {file.name for file in FILES} == {*LISTED["resources"], "kustomization.yaml"}
    images = {c["image"] for pod in pods().values() for c in pod["spec"]["containers"]}
    assert images == {one["name"] for one in LISTED["images"]}


def test_only_the_daemon_has_a_privilege_and_it_is_the_one():
    for name, pod in pods().items():
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert not any(pod["spec"].get(k) for k in ("hostPID", "hostNetwork", "hostIPC"))
        for container in pod["spec"]["containers"]:
            context = pod["spec"].get("securityContext", {}) | container["securityContext"]
            assert context["capabilities"]["drop"] == ["ALL"]
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            if (name, container["name"]) == ("voltana-actuatord", "actuatord"):
                assert context["capabilities"]["add"] == ["SYS_ADMIN"]
                assert context["privileged"] is False
                assert context["readOnlyRootFilesystem"] is True
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
                continue
            assert context["runAsNonRoot"] is True
            assert context["runAsUser"] > 0
            assert context["allowPrivilegeEscalation"] is False
            assert "add" not in context["capabilities"]


def test_nodes_opt_in_by_a_label():
    for name in ("voltana-actuatord", "prefill", "decode"):
        assert pods()[name]["spec"]["nodeSelector"]["voltana/clocks"] == "enabled"


def test_every_container_is_probed_and_every_mount_has_its_volume():
    for pod in pods().values():
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert "livenessProbe" in container
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                action = container.get(probe, {})
                for kind in ("httpGet", "tcpSocket"):
                    assert action.get(kind, {}).get("port") in {None, *ports}


def test_the_daemon_s_configuration_is_one_and_gpus_are_named_by_uuid():
    data = named("ConfigMap", "voltana-actuatord")["data"]["actuatord.toml"]
    settings = DaemonSettings.model_validate(tomllib.loads(data))
    agents, exporter = settings.allow
    assert all(gpu.startswith("GPU-") for gpu in agents.gpus)
    assert exporter.gpus == ()
    daemon, metrics = pods()["voltana-actuatord"]["spec"]["containers"]
    assert exporter.users == (metrics["securityContext"]["runAsUser"],)
    assert daemon["args"] == ["--config", "/etc/voltana/actuatord.toml"]
    assert pods()["decode"]["spec"]["securityContext"]["runAsUser"] in agents.users
    shared = pods()["voltana-actuatord"]["spec"]["securityContext"]["supplementalGroups"]
    assert shared == [settings.socket_group]


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_an_engine_has_the_gpu_of_the_device_plugin_and_no_other(role):
    (engine,) = pods()[role]["spec"]["containers"]
    assert engine["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert "NVIDIA_VISIBLE_DEVICES" not in [one["name"] for one in engine["env"]]


def test_router_and_engines_agree_on_names_ports_and_feeds():
    data = named("ConfigMap", "voltana-cluster")["data"]["cluster.toml"]
    config = parse_config(tomllib.loads(data), SglangConfig)
    servers = {backend.name: backend for backend in config.router.backends}
    started = {
        f"{o['metadata']['name']}-{i}": o["metadata"]["name"]
        for o in OBJECTS
        if o["kind"] == "StatefulSet"
        for i in range(o["spec"]["replicas"])
    }
    assert {name: server.role for name, server in servers.items()} == started
    for name, role in started.items():
        (engine,) = pods()[role]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in engine["ports"]}
        assert servers[name].url == f"http://{name}.{role}:{ports['http']}"
        assert servers[name].feed == f"tcp://{name}.{role}:{ports['feed']}"
        assert ports["feed"] == config.agent.feed_port
        assert ports["metrics"] == config.agent.metrics_port
        assert f"--disaggregation-mode={role}" in engine["args"]
    (router,) = pods()["voltana-router"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in router["ports"]}
    assert ports == {"http": config.router.port, "metrics": config.router.metrics_port}
    assert config.router.admin_host == config.agent.host == "127.0.0.1"
    assert config.agent.start == "plugin"


def test_the_network_is_closed_but_for_what_is_needed():
    policies = [o for o in OBJECTS if o["kind"] == "NetworkPolicy"]
    labels = {pod["metadata"]["labels"]["app"] for pod in pods().values()}
    denied = named("NetworkPolicy", "voltana-deny")["spec"]
    assert set(denied["podSelector"]["matchExpressions"][0]["values"]) == labels
    assert "ingress" not in denied
    for policy in policies:
        for rule in policy["spec"].get("ingress", ()):
            assert rule["from"], policy["metadata"]["name"]
    scraped = {int(pod["metadata"]["annotations"]["prometheus.io/port"]) for pod in pods().values()}
    (rule,) = named("NetworkPolicy", "voltana-scrapes")["spec"]["ingress"]
    assert {port["port"] for port in rule["ports"]} == scraped


def test_no_secret_is_in_the_files():
    secret = named("Secret", "voltana")["stringData"]["feed-key"]
    assert secret.startswith("REPLACE-ME")
    text = "".join(file.read_text(encoding="utf-8") for file in FILES)
    assert not re.search(r"\b[0-9a-f]{32,}\b", text)
