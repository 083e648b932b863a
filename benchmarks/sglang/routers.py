"""Our router, the official one and SGLang's mini load balancer, in front of one pair of servers.

All stand in front of the same prefill and decode server, at the same time, and take turns in random
order. Throughput: a closed loop of clients with short answers. Latency: one client; what a router
adds is what a request spends outside the engine, by the engine's own account, less what it spends
there when the client asks the decode server without a router.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.sglang.load import FAKED_TRANSFER, Target, drive, prompts
from benchmarks.sglang.ratios import ratio_of_pairs
from integrations.sglang.tests.real.servers import (
    ServerSpec,
    die_with_parent,
    free_port,
    get,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integrations.sglang.tests.real.servers import Fleet, Server

ROUNDS = 10
CONCURRENCY = 16
THROUGHPUT_REQUESTS = 160
LATENCY_REQUESTS = 40
OUTPUT_TOKENS = 4
PROMPT_TOKENS = 32
READY_S = 60.0


def commands(prefill: Server, decode: Server) -> dict[str, tuple[list[str], int]]:
    """How to start each router in front of a pair, and its port."""
    ports = {name: free_port() for name in ("voltana", "smg", "mini-lb")}
    pair = ["--prefill", prefill.url, str(prefill.bootstrap_port), "--decode", decode.url]
    theirs = ["--pd-disaggregation", *pair, "--host", "127.0.0.1", "--port"]
    python = [sys.executable, "-m"]
    ours = ["--prefill", f"{prefill.url},{prefill.bootstrap_port}", "--decode", decode.url]
    made = {
        "voltana": [*python, "voltana.serving.router.command", *ours, "--port"],
        "smg": [*python, "smg.launch_router", *theirs],
        "mini-lb": [*python, "sglang_router.launch_router", "--mini-lb", *theirs],
    }
    return {name: ([*made[name], str(port)], port) for name, port in ports.items()}


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[str]:
    """A router, from its health to its end; its address."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,  # noqa: PLW1509  (no thread runs yet)
        )
    url = f"http://127.0.0.1:{port}"
    try:
        ends_s = time.monotonic() + READY_S
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > ends_s:
                raise RuntimeError(f"{command}: not ready\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def compare(fleet: Fleet, names: tuple[str, ...] = ("voltana", "smg", "mini-lb")) -> dict[str, Any]:
    """Requests/s and added latency of each, and ours over theirs."""
    prefill, decode = fleet.get(
        ServerSpec(name="prefill-0", role="prefill"), ServerSpec(name="decode-0", role="decode")
    )
    direct = Target(name="direct", urls=(decode.url,), bootstrap_host=FAKED_TRANSFER)
    with contextlib.ExitStack() as stack:
        targets = [direct]
        for name, (command, port) in commands(prefill, decode).items():
            if name in names:
                log = fleet.folder / f"router-{name}.log"
                url = stack.enter_context(running(command, port, log))
                targets.append(Target(name=name, urls=(url,)))
        return _report(_measure(targets))


class _Figures:
    """Medians of each turn, by router."""

    def __init__(self, targets: list[Target]) -> None:
        self.rate = {target.name: list[float]() for target in targets if target.name != "direct"}
        self.latency_s = {target.name: list[float]() for target in targets}
        self.outside_s = {target.name: list[float]() for target in targets}


def _measure(targets: list[Target]) -> _Figures:
    figures = _Figures(targets)
    rng = np.random.default_rng(1)
    for target in targets:
        _run(target, 0, CONCURRENCY, LATENCY_REQUESTS)  # connections, caches
    asked = [target for target in targets if target.name != "direct"]
    for turn in range(1, ROUNDS + 1):
        for index in rng.permutation(len(targets)):
            target, seed = targets[index], 100 * turn + int(index)
            alone = _run(target, seed, 1, LATENCY_REQUESTS)
            figures.latency_s[target.name].append(float(np.median(alone.latency_s)))
            figures.outside_s[target.name].append(float(np.median(alone.outside_s)))
        for index in rng.permutation(len(asked)):
            target, seed = asked[index], 10_000 * turn + int(index)
            run = _run(target, seed, CONCURRENCY, THROUGHPUT_REQUESTS)
            figures.rate[target.name].append(run.requests_per_s)
    return figures


def _run(target: Target, seed: int, concurrency: int, requests: int) -> Any:
    inputs = prompts(requests, PROMPT_TOKENS, seed)
    return drive(target, inputs, concurrency=concurrency, output_tokens=OUTPUT_TOKENS)


def _report(figures: _Figures) -> dict[str, Any]:
    direct_s = np.array(figures.outside_s["direct"])
    added_ms = {
        name: float(1e3 * np.median(np.array(values) - direct_s))
        for name, values in figures.outside_s.items()
    }
    report: dict[str, Any] = {
        "requests_per_s": {name: float(np.median(v)) for name, v in figures.rate.items()},
        "latency_ms": {name: float(1e3 * np.median(v)) for name, v in figures.latency_s.items()},
        "added_latency_ms": added_ms,
    }
    ours = "voltana"
    if ours in figures.rate:
        others = [name for name in figures.rate if name != ours]
        for key, values in (("rate", figures.rate), ("latency", figures.latency_s)):
            report[f"{key}_ratio"] = {
                name: str(ratio_of_pairs(values[ours], values[name])) for name in others
            }
        report["added_latency_ratio"] = {
            name: round(added_ms[ours] / added_ms[name], 3) for name in others
        }
    return report


def _healthy(url: str) -> bool:
    with contextlib.suppress(OSError):
        return get(f"{url}/health", timeout_s=2.0)[0] == 200
    return False
