"""Servers with voltana's plugin, and what SGLang itself publishes of the same iterations."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from servers import ServerSpec, room
from voltana.serving.ring_reader import RingReader, find_rings
from voltana_ring.layout import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Server
    from voltana.serving.ring_records import Record

SETTLED_S = 0.5
"""Nothing more came for so long: whatever is missing then is lost."""

DEADLINE_S = 30.0
HEARTBEAT_MS = 10_000

CONFIG = """
[agent]
rings = "rings"
state = "state"
"""


def measured_spec(name: str, role: str, folder: Path, *arguments: str) -> ServerSpec:
    """A server that the plugin measures and that publishes its forward-pass metrics."""
    config = folder / "voltana.toml"
    if not config.exists():
        config.write_text(CONFIG)
    return ServerSpec(
        name=name,
        role=role,
        environment=(
            ("VOLTANA_SGLANG_CONFIG", str(config)),
            ("VOLTANA_SGLANG_INSTANCE", name),
        ),
        arguments=(
            "--enable-forward-pass-metrics",
            "--forward-pass-metrics-ipc-name",
            metrics_address(name, folder),
            *arguments,
        ),
    )


def metrics_address(name: str, folder: Path) -> str:
    """Where a server publishes its forward-pass metrics."""
    return f"ipc://{folder}/{name}.fpm"


class Watch:
    """Collects the plugin's records and SGLang's metrics of a server; a context manager.

    Args:
        name: Name of the instance.
        folder: As given to `measured_spec`.
    """

    def __init__(self, name: str, folder: Path) -> None:
        (ring,) = find_rings(folder / "rings", name)
        self.reader = RingReader(ring)
        self.records: list[Record] = []
        self.metrics: list[dict[str, Any]] = []
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.subscribe(b"")
        self._socket.connect(f"{metrics_address(name, folder)}.0")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._collect)

    def __enter__(self) -> Watch:
        self._socket.poll(HEARTBEAT_MS)  # an idle server's first one: the subscription is known
        self.reader.drain()
        while self._socket.poll(10):
            self._socket.recv_multipart()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._settle()
        self._ending.set()
        self._thread.join()
        self._socket.close(0)

    def _collect(self) -> None:
        while not self._ending.is_set():
            self.records += self.reader.drain()
            while self._socket.poll(0):
                self.metrics.append(msgspec.msgpack.decode(self._socket.recv_multipart()[-1]))
            time.sleep(0.02)

    def _settle(self) -> None:
        """Wait until both sides have told of as many iterations, and nothing more comes."""
        ends_s, before = time.monotonic() + DEADLINE_S, (-1, -1)
        while time.monotonic() < ends_s:
            counts = len(self.finished()), len(self.published())
            if counts == before and counts[0] == counts[1]:
                return
            before = counts
            time.sleep(SETTLED_S)

    def finished(self) -> list[Record]:
        """Records of iterations that have ended."""
        return [record for record in self.records if record.kind is Kind.FINISHED]

    def published(self) -> list[dict[str, Any]]:
        """SGLang's own metrics of iterations; heartbeats of an idle server are none."""
        return [m for m in self.metrics if any(self._counts(m))]

    def pairs(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Prefill tokens, decode requests and their KV tokens: as measured, and as published."""
        ours = [
            (r.load.prefill_tokens, r.load.decode_requests, r.load.decode_kv_tokens)
            for r in self.finished()
        ]
        return ours, [self._counts(m) for m in self.published()]

    @staticmethod
    def _counts(metrics: dict[str, Any]) -> tuple[int, int, int]:
        scheduled = metrics["scheduled_requests"]
        return (
            scheduled["sum_prefill_tokens"],
            scheduled["num_decode_requests"],
            scheduled["sum_decode_kv_tokens"],
        )


def send_many(
    server: Server,
    count: int,
    *,
    at_once: int = 12,
    prompt: tuple[int, int] = (5, 300),
    output: tuple[int, int] = (5, 60),
    seed: int = 1,
) -> None:
    """Send requests of random lengths, so many at a time."""
    rng = random.Random(seed)

    def one(body: dict[str, Any]) -> None:
        server.generate(**body)

    bodies = []
    for _ in range(count):
        ids = [rng.randrange(10, 400) for _ in range(rng.randint(*prompt))]
        sampling = {
            "temperature": 0.0,
            "max_new_tokens": rng.randint(*output),
            "ignore_eos": True,
        }
        body: dict[str, Any] = {"input_ids": ids, "sampling_params": sampling}
        if server.spec.role == "prefill":
            body |= {"bootstrap_host": "2.2.2.2", "bootstrap_room": room()}
        bodies.append(body)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, bodies))
