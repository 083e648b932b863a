"""A real prefill and decode server that hand KV caches over NIXL and TCP."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from vllm_server import VllmServer, transfer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LEASE_S = 30
"""Seconds after which a prefill server frees what nobody has fetched."""

_KV_ROLES = {"prefill-0": "kv_producer", "decode-0": "kv_consumer"}


@contextlib.contextmanager
def running_pair(
    model: Path, config: Path, port: int, arguments: Sequence[str] = ()
) -> Iterator[tuple[VllmServer, VllmServer]]:
    """A prefill and a decode server with the plugin, ready; they end with the block.

    Args:
        model: Folder of the model.
        config: Of the plugin; logs lie beside it.
        port: Of the prefill server; the other's is the next.
        arguments: Of both.
    """
    made = []
    for index, (name, role) in enumerate(_KV_ROLES.items()):
        own = {"VOLTANA_VLLM_CONFIG": str(config), "VOLTANA_VLLM_INSTANCE": name}
        log = config.with_name(f"{name}.log")
        given = [*transfer(role, LEASE_S), *arguments]
        made.append(VllmServer(model, port + index, log, given, own))
    try:
        for server in made:
            server.wait()
        yield made[0], made[1]
    finally:
        for server in made:
            server.stop()
