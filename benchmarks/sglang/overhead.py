"""What the plugin costs a real engine: thread CPU time of its hooks, and throughput.

Throughput: two servers alike, one with the plugin configured and one without, take turns; each pair
of runs gives one ratio. On a CPU the iterations of the tiny model are as short as those of a large
model on a GPU (3 to 5 ms), while hooks and engine share the same cores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.sglang.load import Target, drive, prompts
from benchmarks.sglang.ratios import ratio_of_pairs
from integrations.sglang.tests.real.servers import ServerSpec
from voltana_sglang_cpu.hook_cost import empty_hook_ns

if TYPE_CHECKING:
    from pathlib import Path

    from integrations.sglang.tests.real.servers import Fleet, Server

PAIRS = 14
REQUESTS = 96
CONCURRENCY = 24
PROMPT_TOKENS = 48
OUTPUT_TOKENS = 96
HOOKS = ("run_batch", "process_batch_result")


def plugin_environment(config: Path, instance: str) -> tuple[tuple[str, str], ...]:
    """What configures the plugin of a server."""
    return (("VOLTANA_SGLANG_CONFIG", str(config)), ("VOLTANA_SGLANG_INSTANCE", instance))


def hook_cost(fleet: Fleet, config: Path) -> dict[str, Any]:
    """Thread CPU time that hooks take per iteration, in microseconds, the measurement taken out."""
    costs = fleet.folder / "hook-cost"
    costs.mkdir()
    environment = (*plugin_environment(config, "bench"), ("VOLTANA_HOOK_COST", str(costs)))
    (server,) = fleet.get(ServerSpec(name="timed", environment=environment))
    for turn in range(6):
        _throughput(server, turn)
    by_hook = {
        hook: np.concatenate([np.fromfile(path, np.int64) for path in costs.glob(f"{hook}-*.ns")])
        for hook in HOOKS
    }
    iterations = min(len(values) for values in by_hook.values())
    empty_us = len(HOOKS) * empty_hook_ns() / 1e3
    whole_us = sum(values[:iterations] for values in by_hook.values()) / 1e3 - empty_us
    return {
        "iterations": iterations,
        "measurement_us": empty_us,
        "p50_us": float(np.percentile(whole_us, 50)),
        "p99_us": float(np.percentile(whole_us, 99)),
        **{f"{hook}_p50_us": float(np.median(v) / 1e3) for hook, v in by_hook.items()},
    }


def throughput(fleet: Fleet, config: Path, pairs: int = PAIRS) -> dict[str, Any]:
    """Tokens per second with the plugin over those without."""
    without, with_plugin = fleet.get(
        ServerSpec(name="unified"),
        ServerSpec(name="measured", environment=plugin_environment(config, "bench")),
    )
    for server in (without, with_plugin):
        _throughput(server, 0)
    rates: dict[str, list[float]] = {"with": [], "without": []}
    for pair in range(pairs):
        order = [("with", with_plugin), ("without", without)]
        for name, server in order if pair % 2 else reversed(order):
            rates[name].append(_throughput(server, pair + 1))
    ratio = ratio_of_pairs(rates["with"], rates["without"])
    return {
        "ratio": str(ratio),
        "ratio_low": ratio.low,
        "tokens_per_s_without": float(np.median(rates["without"])),
    }


def _throughput(server: Server, seed: int) -> float:
    target = Target(name=server.spec.name, urls=(server.url,))
    inputs = prompts(REQUESTS, PROMPT_TOKENS, seed)
    run = drive(target, inputs, concurrency=CONCURRENCY, output_tokens=OUTPUT_TOKENS)
    return run.tokens_per_s
