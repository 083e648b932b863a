"""The servers of a launch by name, with the ports and GPUs that each is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.serving.launch.allocation import Gpu
    from voltana.serving.launch.config import LaunchTable

TRANSFER_OFFSET = 100
"""From a server's port to that of its transfers; agents and feeds follow likewise."""

CONTROL_OFFSET = 200
FEED_OFFSET = 300
METRICS_OFFSET = 400


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One server and its agent.

    Attributes:
        name: Unique, such as ``decode-0``.
        role: ``unified``, ``prefill`` or ``decode``.
        host: Address of its ports.
        port: Of the server.
        gpus: Its GPUs; empty on a machine without any.
    """

    name: str
    role: str
    host: str
    port: int
    gpus: tuple[Gpu, ...] = ()

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://{in_url(self.host)}:{self.port}"

    @property
    def transfer_port(self) -> int:
        """Where decode servers ask a prefill server for a transfer."""
        return self.port + TRANSFER_OFFSET

    @property
    def control_port(self) -> int:
        """Where the agent answers."""
        return self.port + CONTROL_OFFSET

    @property
    def feed_port(self) -> int:
        """Where the agent publishes to routers."""
        return self.port + FEED_OFFSET

    @property
    def metrics_port(self) -> int:
        """Where the agent is scraped, if it is to be apart from its control."""
        return self.port + METRICS_OFFSET


def instances(table: LaunchTable, gpus: Sequence[tuple[Gpu, ...]] = ()) -> list[Instance]:
    """Every server of a launch, with its ports and GPUs.

    Args:
        table: The launch.
        gpus: Those of each server; none where that does not matter.
    """
    return [
        Instance(
            name=name,
            role=role,
            host=table.host,
            port=table.first_port + index,
            gpus=gpus[index] if gpus else (),
        )
        for index, (name, role) in enumerate(table.instances())
    ]


def in_url(host: str) -> str:
    """A host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
