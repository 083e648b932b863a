"""Real processes are killed under load: no request is lost silently, and serving goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from router_process import Clients, RouterProcess, router
from servers import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Fleet, Server


def test_a_decode_server_dies(trio: tuple[Server, Server, Server], tmp_path: Path) -> None:
    with router(tmp_path, *trio) as made:
        clients = Clients(made.url)
        try:
            clients.wait_for("completed", 8)
            trio[1].kill()
            killed_s = time.monotonic()
            clients.wait_for_after("completed", 8, killed_s + 0.5)
            assert wait_for(lambda: not made.status()["decode-0"]["healthy"])
        finally:
            clients.stop()
        assert clients.refused_connections == 0
        assert clients.count("error") <= 4  # at most what was streaming from the dead server
        assert wait_for(lambda: made.status()["decode-1"]["healthy"])
        assert wait_for(lambda: made.in_flight() == 0)


def test_the_only_prefill_server_dies_and_comes_back(
    fleet: Fleet, pair: tuple[Server, Server], tmp_path: Path
) -> None:
    with router(tmp_path, *pair) as made:
        clients = Clients(made.url)
        try:
            clients.wait_for("completed", 8)
            pair[0].kill()
            clients.wait_for("error", 4)
        finally:
            clients.stop()
        assert clients.refused_connections == 0
        assert made.status()["prefill-0"]["why"]
        assert wait_for(lambda: made.in_flight() == 0)
    again = fleet.get(pair[0].spec, pair[1].spec)
    with router(tmp_path, *again) as made:
        clients = Clients(made.url)
        clients.wait_for("completed", 8)
        clients.stop()


def test_the_router_dies_and_another_takes_over(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    first = RouterProcess(tmp_path, pair)
    first.wait_ready()
    clients = Clients(first.url)
    clients.wait_for("completed", 4)
    first.kill()
    clients.stop()
    assert clients.refused_connections > 0
    with router(tmp_path, *pair) as second:
        clients = Clients(second.url)
        clients.wait_for("completed", 8)
        clients.stop()
        assert clients.count("error") == 0


def test_a_shutdown_loses_nothing(pair: tuple[Server, Server], tmp_path: Path) -> None:
    made = RouterProcess(tmp_path, pair)
    made.wait_ready()
    clients = Clients(made.url, count=3, tokens=100)
    clients.wait_for("completed", 3)
    assert made.stop() == 0
    clients.stop()
    # What was open when the signal came was completed; later requests were refused.
    assert clients.count("completed") >= 3
