"""What the plugin costs a real engine: thread CPU time of its hooks, and throughput.

Throughput: two servers alike, one with the plugin configured and one without, take turns; each pair
of runs gives one ratio. On a CPU the iterations of the tiny model are as short as those of a large
model on a GPU (3 to 5 ms), while hooks and engine share the same cores. Runs are short and many, so
that what else happens on the machine hits both sides; tokens per second of the scheduler's CPU time
say the same without it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.sglang.hook_costs import read_hook_costs, read_toggled
from benchmarks.sglang.load import prompts
from benchmarks.sglang.ratios import ratio_of_pairs
from integrations.sglang.tests.real.servers import ServerSpec
from voltana_sglang_cpu import hook_toggle

if TYPE_CHECKING:
    from integrations.sglang.tests.real.servers import Fleet, Server

PAIRS = 60
REQUESTS = 24
PROMPT_TOKENS = 48
OUTPUT_TOKENS = 160
HOOK_RUNS = 16
TOGGLED_RUNS = 200


def plugin_environment(config: Path, instance: str) -> tuple[tuple[str, str], ...]:
    """What configures the plugin of a server."""
    return (("VOLTANA_SGLANG_CONFIG", str(config)), ("VOLTANA_SGLANG_INSTANCE", instance))


def hook_cost(fleet: Fleet, config: Path) -> dict[str, Any]:
    """Thread CPU time that hooks take per iteration, in microseconds, the measurement taken out."""
    costs = fleet.folder / "hook-cost"
    costs.mkdir()
    environment = (*plugin_environment(config, "bench"), ("VOLTANA_HOOK_COST", str(costs)))
    (server,) = fleet.get(ServerSpec(name="timed", environment=environment))
    for turn in range(HOOK_RUNS):
        _throughput(server, turn)
    return read_hook_costs(costs)


def throughput(fleet: Fleet, config: Path, pairs: int = PAIRS) -> dict[str, Any]:
    """Tokens per second with the plugin over those without."""
    without, with_plugin = fleet.get(
        ServerSpec(name="unified"),
        ServerSpec(name="measured", environment=plugin_environment(config, "bench")),
    )
    for server in (without, with_plugin):
        _throughput(server, 0)
    rates: dict[str, list[float]] = {"with": [], "without": []}
    per_cpu: dict[str, list[float]] = {"with": [], "without": []}
    for pair in range(pairs):
        order = [("with", with_plugin), ("without", without)]
        for name, server in order if pair % 2 else reversed(order):
            before_s = _scheduler_cpu_s(server)
            rates[name].append(_throughput(server, pair + 1))
            used_s = _scheduler_cpu_s(server) - before_s
            per_cpu[name].append(REQUESTS * OUTPUT_TOKENS / used_s)
    ratio = ratio_of_pairs(rates["with"], rates["without"])
    cpu_ratio = ratio_of_pairs(per_cpu["with"], per_cpu["without"])
    return {
        "ratio": str(ratio),
        "ratio_low": ratio.low,
        "per_cpu_second_ratio": str(cpu_ratio),
        "tokens_per_s_without": float(np.median(rates["without"])),
    }


def toggled(fleet: Fleet, config: Path) -> dict[str, Any]:
    """Time per decode iteration with hooks off over that with hooks on, in one engine."""
    log = fleet.folder / "toggle.ns"
    environment = (*plugin_environment(config, "bench"), (hook_toggle.VARIABLE, str(log)))
    (server,) = fleet.get(ServerSpec(name="toggled", environment=environment))
    for turn in range(TOGGLED_RUNS):
        _throughput(server, turn)
    return read_toggled(log, REQUESTS)


def _throughput(server: Server, seed: int) -> float:
    """Tokens per second of one batch; sent as one, so that every run has the same iterations."""
    sampling = {"temperature": 0.0, "max_new_tokens": OUTPUT_TOKENS, "ignore_eos": True}
    started_s = time.perf_counter()
    answers = server.generate(
        input_ids=prompts(REQUESTS, PROMPT_TOKENS, seed), sampling_params=sampling
    )
    elapsed_s = time.perf_counter() - started_s
    return sum(len(answer["output_ids"]) for answer in answers) / elapsed_s


def _scheduler_cpu_s(server: Server) -> float:
    """CPU time that the scheduler's main thread has used."""
    schedstat = Path(f"/proc/{server.scheduler().pid}/schedstat").read_text()
    return int(schedstat.split()[0]) / 1e9
