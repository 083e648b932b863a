"""Small clusters to rehearse, on ports of their own."""

from __future__ import annotations

import random
import socket

from voltana.rehearsal.port import find_dialect
from voltana.rehearsal.rehearse import Director, scenario_of
from voltana.serving.launch.command import read_launch

CLUSTER = """
[launch]
model_path = "meta-llama/Llama-3.1-8B-Instruct"
prefill = 1
decode = {decode}
first_port = {port}
start_timeout_s = 120
[engine]
hardware = "a100-sxm4-80gb"
model = "llama-3.1-8b"
[router]
port = {router}
"""


def free_port():
    """The first of a block: servers, transfers, agents, feeds, router and administration."""
    rng = random.Random()
    while True:
        port = rng.randrange(20_000, 28_000)
        wanted = [port + offset + i for offset in (0, 50, 100, 200, 300, 950) for i in range(3)]
        try:
            for number in wanted:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port


def write_cluster(folder, *, decode=1):
    """A file of one prefill server and some decode servers; its path."""
    port, path = free_port(), folder / "cluster.toml"
    path.write_text(CLUSTER.format(port=port, router=port + 50, decode=decode))
    return path


def director_of(folder, policies, *, decode=1, duration_s=3.0, factor=0.5):
    """Has policies rehearsed at 3 requests a second, and keeps logs and records."""
    dialect = find_dialect("sglang")
    config = read_launch(write_cluster(folder, decode=decode), dialect.config)
    load = {"name": "sharegpt", "rate_rps": 3.0, "duration_s": duration_s}
    return Director(
        config=config,
        scenario=scenario_of(config, dialect, {"seed": 3, "workload": load}, policies),
        dialect=dialect,
        factor=factor,
        folder=folder / "kept",
        say=lambda name, text: None,
    )
