"""What a launch starts: command lines of servers, agents and router, from the configuration.

Pure: nothing is started here, so that ``--print`` and tests can look at it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.serving.launch.child_process import ProcessSpec

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.serving.config import AgentTable
    from voltana.serving.launch.config import LaunchTable
    from voltana.serving.router.settings import RouterTable

BOOTSTRAP_OFFSET = 100
"""From a server's port to that of its transfers; agents and feeds follow likewise."""

CONTROL_OFFSET = 200
FEED_OFFSET = 300

AGENT_GRACE_S = 10.0
"""An agent gives clocks back and saves what it learned."""

ROUTER_GRACE_S = 10.0
"""On top of the time in which a router waits for open requests (``router.drain_timeout_s``)."""

_PYTHON = (sys.executable, "-m")


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One server and its agent.

    Attributes:
        name: Unique, such as ``decode-0``.
        role: ``unified``, ``prefill`` or ``decode``.
        host: Address of its ports.
        port: Of the server.
        gpus: Indices of its GPUs; empty on a machine without any.
    """

    name: str
    role: str
    host: str
    port: int
    gpus: tuple[int, ...]

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://{in_url(self.host)}:{self.port}"

    @property
    def bootstrap_port(self) -> int:
        """Where decode servers ask a prefill server for a transfer."""
        return self.port + BOOTSTRAP_OFFSET

    @property
    def control_port(self) -> int:
        """Where the agent answers."""
        return self.port + CONTROL_OFFSET

    @property
    def feed_port(self) -> int:
        """Where the agent publishes to routers."""
        return self.port + FEED_OFFSET


def instances(table: LaunchTable) -> list[Instance]:
    """Every server of a launch, with its ports and GPUs."""
    return [
        Instance(
            name=name,
            role=role,
            host=table.host,
            port=table.first_port + index,
            gpus=table.gpus_of(index),
        )
        for index, (name, role) in enumerate(table.instances())
    ]


def cluster(
    table: LaunchTable,
    config: Path,
    router: RouterTable,
    agent: AgentTable,
    *,
    dry_run: bool = False,
) -> list[list[ProcessSpec]]:
    """Everything that a launch starts, in stages.

    Args:
        table: The launch.
        config: The file that it was read from.
        router: The router.
        agent: Where agents live.
        dry_run: Whether agents leave the clocks alone.
    """
    fleet = instances(table)
    return [
        [server_process(instance, table, config) for instance in fleet],
        [agent_process(instance, config, agent.host, dry_run=dry_run) for instance in fleet],
        [router_process(fleet, config, router, agent.feed_host)],
    ]


def server_process(instance: Instance, table: LaunchTable, config: Path) -> ProcessSpec:
    """How a server is started, with the plugin configured in it."""
    arguments = ["--model-path", table.model_path, "--host", instance.host]
    arguments += ["--port", str(instance.port)]
    if table.tensor_parallel > 1:
        arguments += ["--tp-size", str(table.tensor_parallel)]
    arguments += _role_arguments(instance, table)
    own = table.environment | {
        "VOLTANA_SGLANG_CONFIG": str(config.resolve()),
        "VOLTANA_SGLANG_INSTANCE": instance.name,
    }
    if instance.gpus:
        own["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, instance.gpus))
    return ProcessSpec(
        name=instance.name,
        kind=instance.role,
        command=(*_PYTHON, "sglang.launch_server", *arguments, *table.arguments),
        environment=tuple(sorted(own.items())),
        ready_url=f"{instance.url}/health",
    )


def agent_process(instance: Instance, config: Path, host: str, *, dry_run: bool) -> ProcessSpec:
    """How the agent of an instance is started; `host` is that of its control endpoint."""
    arguments = ["--config", str(config.resolve()), "--instance", instance.name]
    if instance.gpus:
        arguments += ["--gpus", ",".join(map(str, instance.gpus))]
    arguments += ["--control-port", str(instance.control_port)]
    arguments += ["--feed-port", str(instance.feed_port)]
    return ProcessSpec(
        name=f"agent-{instance.name}",
        kind="agent",
        command=(*_PYTHON, "voltana_sglang", "agent", *arguments, *["--dry-run"] * dry_run),
        ready_url=f"http://{in_url(host)}:{instance.control_port}/health",
        grace_s=AGENT_GRACE_S,
        restarts=True,
    )


def router_process(
    fleet: list[Instance], config: Path, router: RouterTable, feed_host: str
) -> ProcessSpec:
    """How the router is started.

    Args:
        fleet: The servers behind it.
        config: The configuration file, for its table ``[router]``.
        router: What is in that.
        feed_host: Where agents publish.
    """
    port = str(router.port)
    arguments = ["--config", str(config.resolve()), "--host", router.host, "--port", port]
    for instance in fleet:
        transfer = f",{instance.bootstrap_port}" if instance.role == "prefill" else ""
        arguments += [f"--{instance.role}", f"{instance.url}{transfer}"]
        arguments += ["--feed", f"{instance.name}=tcp://{in_url(feed_host)}:{instance.feed_port}"]
    return ProcessSpec(
        name="router",
        kind="router",
        command=(*_PYTHON, "voltana_sglang", "router", *arguments),
        ready_url=f"http://{in_url(router.host)}:{port}/health",
        grace_s=router.drain_timeout_s + ROUTER_GRACE_S,
        restarts=True,
    )


def in_url(host: str) -> str:
    """A host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _role_arguments(instance: Instance, table: LaunchTable) -> list[str]:
    if instance.role == "unified":
        return []
    arguments = ["--disaggregation-mode", instance.role]
    if table.ib_device is not None:
        arguments += ["--disaggregation-ib-device", table.ib_device]
    if instance.role == "prefill":
        arguments += ["--disaggregation-bootstrap-port", str(instance.bootstrap_port)]
        return [*arguments, *table.prefill_arguments]
    return [*arguments, *table.decode_arguments]
