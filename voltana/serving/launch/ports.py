"""Whether the ports of a launch are free, before anything takes minutes to start.

A server that finds its port taken says so only when its model is loaded; and where another server
listens there, that one's health would be taken for the new one's.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, NamedTuple

from voltana.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from voltana.serving.launch.instances import Instance
    from voltana.serving.launch.servers import ServerPlan
    from voltana.serving.router.settings import RouterTable


class Port(NamedTuple):
    """A port of a launch.

    Attributes:
        number: Its number.
        key: The setting that it follows from.
        whose: What listens there, in words.
    """

    number: int
    key: str
    whose: str


def ports_of(
    engine: ServerPlan, fleet: Sequence[Instance], router: RouterTable, *, scraped: bool = False
) -> Iterator[Port]:
    """Every port on which something of a launch will listen; `scraped` agents have one more."""
    for instance in fleet:
        yield from engine.ports(instance)
        yield Port(instance.control_port, "launch.first_port", f"the agent of {instance.name}")
        yield Port(instance.feed_port, "launch.first_port", f"the feed of {instance.name}")
        if scraped:
            whose = f"the scrape port of {instance.name}"
            yield Port(instance.metrics_port, "launch.first_port", whose)
    yield Port(router.port, "router.port", "the router")
    if administration := router.administration_port():
        yield Port(administration, "router.admin_port", "the router's administration")
    if router.metrics_port:
        yield Port(router.metrics_port, "router.metrics_port", "the router's scrape port")


def check_ports(
    engine: ServerPlan, fleet: Sequence[Instance], router: RouterTable, *, scraped: bool = False
) -> None:
    """Check that no port is wanted twice or taken.

    Args:
        engine: Knows its servers' ports.
        fleet: The servers.
        router: The router.
        scraped: Whether agents have a scrape port.

    Raises:
        ConfigError: At the first one that is, naming what wants it and the remedy.
    """
    wanted: dict[int, Port] = {}
    for port in ports_of(engine, fleet, router, scraped=scraped):
        if port.number in wanted:
            other = wanted[port.number].whose
            raise invalid(
                port.key, port.number, f"another port than that of {other}", "Choose another one."
            )
        wanted[port.number] = port
        if _is_taken(port.number):
            raise invalid(
                port.key,
                port.number if port.key.startswith("router.") else fleet[0].port,
                f"such that port {port.number} ({port.whose}) is free",
                "Something listens there, perhaps an earlier launch: end it, or choose another "
                f"{port.key}.",
            )


def _is_taken(port: int) -> bool:
    """Whether something listens on a port, on any address of this host."""
    for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((anywhere, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return True
                raise
    return False
