"""What a launch starts: command lines of servers, agents and router, from the configuration.

Pure: nothing is started here, so that ``--print`` and tests can look at it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from voltana.serving.launch.child_process import ProcessSpec
from voltana.serving.launch.instances import in_url

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from voltana.serving.config import Config
    from voltana.serving.config_tables import AgentTable
    from voltana.serving.launch.instances import Instance
    from voltana.serving.launch.servers import ServerPlan
    from voltana.serving.router.settings import RouterTable

AGENT_GRACE_S = 10.0
"""An agent gives clocks back and saves what it learned."""

ROUTER_GRACE_S = 10.0
"""On top of the time in which a router waits for open requests (``router.drain_timeout_s``)."""


def cluster(
    engine: ServerPlan,
    fleet: Sequence[Instance],
    config: Config,
    path: Path,
    *,
    dry_run: bool = False,
    names_transfers: bool = True,
) -> list[list[ProcessSpec]]:
    """Everything that a launch starts, in stages.

    Args:
        engine: What is served with.
        fleet: The servers.
        config: The configuration, which has a launch.
        path: The file that it was read from.
        dry_run: Whether agents leave the clocks alone.
        names_transfers: Whether the router is told the ports of prefill servers' transfers.
    """
    table, agent, program = config.launch, config.agent, engine.program
    assert table is not None
    return [
        [engine.server(instance, table, path) for instance in fleet],
        [agent_process(program, instance, path, agent, dry_run=dry_run) for instance in fleet],
        [
            router_process(
                program,
                fleet,
                path,
                config.router,
                agent.feed_host,
                names_transfers=names_transfers,
            )
        ],
    ]


def agent_process(
    program: str, instance: Instance, config: Path, agent: AgentTable, *, dry_run: bool
) -> ProcessSpec:
    """How the agent of an instance is started.

    Args:
        program: Module that has the command.
        instance: The instance.
        config: The configuration file.
        agent: Where agents live.
        dry_run: Whether it leaves the clocks alone.
    """
    arguments = ["--config", str(config.resolve()), "--instance", instance.name]
    if instance.gpus:
        arguments += ["--gpus", ",".join(gpu.name for gpu in instance.gpus)]
    arguments += ["--control-port", str(instance.control_port)]
    arguments += ["--feed-port", str(instance.feed_port)]
    if agent.metrics_port is not None:
        arguments += ["--metrics-port", str(instance.metrics_port)]
    python = agent.interpreter or (sys.executable,)
    return ProcessSpec(
        name=f"agent-{instance.name}",
        kind="agent",
        command=(*python, "-m", program, "agent", *arguments, *["--dry-run"] * dry_run),
        ready_url=f"http://{in_url(agent.host)}:{instance.control_port}/health",
        grace_s=AGENT_GRACE_S,
        restarts=True,
    )


def router_process(
    program: str,
    fleet: Sequence[Instance],
    config: Path,
    router: RouterTable,
    feed_host: str,
    *,
    names_transfers: bool = True,
) -> ProcessSpec:
    """How the router is started.

    Args:
        program: Module that has the command.
        fleet: The servers behind it.
        config: The configuration file, for its table ``[router]``.
        router: What is in that.
        feed_host: Where agents publish.
        names_transfers: As for `cluster`.
    """
    port = str(router.port)
    arguments = ["--config", str(config.resolve()), "--host", router.host, "--port", port]
    for instance in fleet:
        named = names_transfers and instance.role == "prefill"
        transfer = f",{instance.transfer_port}" if named else ""
        arguments += [f"--{instance.role}", f"{instance.url}{transfer}"]
        arguments += ["--feed", f"{instance.name}=tcp://{in_url(feed_host)}:{instance.feed_port}"]
    return ProcessSpec(
        name="router",
        kind="router",
        command=(sys.executable, "-m", program, "router", *arguments),
        ready_url=f"http://{in_url(router.host)}:{port}/health",
        grace_s=router.drain_timeout_s + ROUTER_GRACE_S,
        restarts=True,
    )
