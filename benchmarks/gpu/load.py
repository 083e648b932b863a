"""Poisson requests on a server with plugin and agent, in dry run: counts, predictor, hooks, CPU."""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.beside import beside
from benchmarks.gpu.read_along import read_along
from benchmarks.gpu.readings import Sampler
from benchmarks.sglang.hook_costs import MEASURED, read_hook_costs, read_toggled
from benchmarks.sglang.load import Target, arrive, prompts
from voltana.serving.admin.token import known_token
from voltana.serving.profile.design import Point
from voltana.serving.ring_reader import RingReader, find_rings
from voltana.values import Phase
from voltana_ring.layout import Kind
from voltana_sglang.dialect.profiled_server import SglangServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.gpu.grid import Bench
    from voltana.serving.launch.instances import Instance
    from voltana.serving.ring_records import Record

OUTPUT_TOKENS = (16, 160)
"""Fewest and most of an answer, evenly between."""

ROOT = Path(__file__).parents[2]
CPU_PACKAGE = ROOT / "integrations" / "sglang" / "cpu" / "voltana_sglang_cpu"
HOOK_COSTS = "hook-cost"
HOOK_VARIABLE = "VOLTANA_HOOK_COST"
TOGGLE_VARIABLE = "VOLTANA_HOOK_TOGGLE"
TOGGLED_REQUESTS = 24
TOGGLED_PROMPT = 48
TOGGLED_STEPS = 200
TOGGLED_HOLDS = 10
"""For so many times as long as a point is held: a fraction of a per cent is looked for."""

LEAST_RUNS = 4
RESERVED_TOKENS = 512
"""What a decode server keeps free for each request unless told otherwise."""

KEPT = (
    "dry_run", "health", "iterations", "decisions", "bindings", "prediction", "policy",
    "guarantee", "slo", "power_w",
)  # fmt: skip
"""Of the agent's status."""

_TIMEOUT_S = 30.0


def timing(folder: Path) -> dict[str, str]:
    """Variables of a server whose hooks are timed, into a folder of the run."""
    costs = folder / HOOK_COSTS
    costs.mkdir(exist_ok=True)
    for old in costs.glob("*.ns"):
        old.unlink()
    return {HOOK_VARIABLE: str(costs)} | _timer(folder)


def loaded(bench: Bench, instance: Instance, agent: int) -> dict[str, Any]:
    """Serve Poisson requests under the agent, which only watches, and read everybody's account.

    Args:
        bench: The run.
        instance: The server, started with the variables of `timing`.
        agent: Process id of its agent.
    """
    figures = _serve(bench, instance, agent)
    costs = bench.servers.folder / HOOK_COSTS
    complete = all(any(costs.glob(f"{hook}-*.ns")) for hook in MEASURED)
    figures["hooks"] = read_hook_costs(costs) if complete else {"skipped": "no hook was timed"}
    return figures


def toggled(bench: Bench, log: Path) -> dict[str, Any]:
    """Decode with voltana's hooks off and on in turns, in one server; ratios off over on."""
    log.unlink(missing_ok=True)
    with bench.servers.decode_only(
        {TOGGLE_VARIABLE: str(log)} | _timer(bench.servers.folder)
    ) as one:
        server = SglangServer(one.url, decode_steps=TOGGLED_STEPS)
        limits, runs = server.about.limits, 0
        room = limits.max_tokens // (TOGGLED_PROMPT + max(TOGGLED_STEPS, RESERVED_TOKENS))
        requests = max(1, min(TOGGLED_REQUESTS, limits.max_requests, room))
        point = Point(
            phase=Phase.DECODE, requests=requests, prompt_tokens=TOGGLED_PROMPT, clock_mhz=1.0
        )
        ends_s = time.monotonic() + TOGGLED_HOLDS * bench.settings.hold_s
        while runs < LEAST_RUNS or time.monotonic() < ends_s:
            server.run(point)
            runs += 1
    return read_toggled(log, requests) if log.exists() else {"blocks": 0}


def _timer(folder: Path) -> dict[str, str]:
    """Variables that let SGLang find what times voltana's hooks.

    The timer lies in the package for servers on a CPU, whose other half would stand in for the real
    kernels; where that is not installed, the timer alone is announced as a plugin.
    """
    try:
        importlib.metadata.distribution("voltana-sglang-cpu")
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        return {}
    site = folder / "hook-timer"
    about = site / "voltana_hook_timer-0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: voltana-hook-timer\nVersion: 0\n")
    (about / "entry_points.txt").write_text(
        "[sglang.srt.plugins]\n"
        "voltana_hook_timer = voltana_sglang_cpu.hook_cost:measure_hooks\n"
        "voltana_hook_toggle = voltana_sglang_cpu.hook_toggle:toggle_hooks\n"
    )
    link = site / CPU_PACKAGE.name
    if not link.exists():
        link.symlink_to(CPU_PACKAGE)
    # Engine and plugin may be found by this very variable.
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))}


def _serve(bench: Bench, instance: Instance, agent: int) -> dict[str, Any]:
    settings = bench.settings
    rng = np.random.default_rng(0)
    count = max(1, round(settings.load_s * settings.rate_rps))
    at_s = np.sort(rng.uniform(0.0, settings.load_s, count))  # Poisson arrivals, given their number
    tokens = rng.integers(*OUTPUT_TOKENS, count, endpoint=True)
    (ring,) = [RingReader(path) for path in find_rings(bench.servers.rings, instance.name)]
    ring.drain()
    times = bench.servers.times
    if times is not None:
        times.drain()
    before_s = _cpu_s(agent)
    inputs = prompts(count, settings.prompt_tokens, seed=1)
    with read_along(ring.drain) as read, Sampler(bench.gpus) as sampler:
        target = Target(name="load", urls=(instance.url,))
        run = arrive(target, inputs, at_s.tolist(), tokens.tolist())
    used_s = _cpu_s(agent) - before_s
    sampler.save(settings.out / "load-boards.npz")
    _keep_records(settings.out / "load-records.npz", read)
    ran = [record for record in read if record.kind is Kind.FINISHED]
    told = times.drain() if times is not None else []
    records = [record.load for record in ran]
    lost, torn = ring.lost, ring.torn
    ring.close()
    return {
        "requests": count,
        "seconds": round(run.seconds, 2),
        "latency_p50_s": round(float(np.median(run.latency_s)), 4),
        "latency_p99_s": round(float(np.percentile(run.latency_s, 99)), 4),
        "plugin": {
            "iterations": len(records),
            "prompt_tokens": sum(load.prefill_tokens for load in records),
            "prompt_tokens_sent": count * settings.prompt_tokens,
            "decoded_tokens": sum(load.decode_requests for load in records),
            "decoded_tokens_answered": int(tokens.sum()) - count,
            "lost": lost,
            "torn": torn,
        },
        "iterations": beside(ran, told, bench.plant, sampler.clock_at([one.at_s for one in ran])),
        "power": sampler.reading().figures(),
        "agent": _account(instance) | {"cpu_share": round(used_s / run.seconds, 4)},
    }


def _keep_records(path: Path, records: Sequence[Record]) -> None:
    """Everything that the plugin wrote of iterations, for an agent to be shown it again."""
    rows = [
        (
            record.kind,
            record.iteration,
            record.at_s,
            record.launch_s,
            record.ready_s,
            record.latency_s,
            record.load.prefill_tokens,
            record.load.prefill_attended_pairs,
            record.load.decode_requests,
            record.load.decode_kv_tokens,
        )
        for record in records
    ]
    np.savez_compressed(path, rows=np.array(rows))


def _account(instance: Instance) -> dict[str, Any]:
    """What the agent says of itself, to who shows the token of this user."""
    address = f"http://{instance.host}:{instance.control_port}/status"
    token = known_token(None, os.environ)
    asked = urllib.request.Request(address, headers=token.header() if token else {})
    with urllib.request.urlopen(asked, timeout=_TIMEOUT_S) as reply:
        status = json.loads(reply.read())
    return {key: status.get(key) for key in KEPT} | {"status": status}


def _cpu_s(pid: int) -> float:
    """CPU time that a process and its children have used (utime and stime of proc(5)).

    The agent is a child of the warden that ends it with the launch.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own_s + sum(_cpu_s(int(child)) for child in children)
