"""The default policy on hardware, models, workloads and loads that nobody tuned it on.

Run as ``python -m benchmarks.matrix``: every cell against `best-fixed`, both references and
voltana-v0.1, in parallel, resumable after a kill (the same command goes on). Loads are shares of
the rate at which an instance of each kind is busy all the time at its fastest clock, estimated from
the plant: from a tenth of it to beyond it. ``--quick`` runs fewer, shorter ones, ``--sample`` as
many of all as are asked for.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cells import Cell, measure, scenario_of, table, verdicts
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Sequence

HARDWARE = ("a100-sxm4-80gb", "h100-sxm", "h200-sxm")
MODELS = (
    "ministral-3b", "llama-3.1-8b", "qwen3-32b", "llama-3.1-70b", "qwen3-30b-a3b",
    "deepseek-v2-lite",
)  # fmt: skip
WORKLOADS = ("sharegpt", "lmsys", "azure-conv", "arxiv", "sharegpt-8k")
LOADS = (0.1, 0.4, 0.7, 0.9, 1.05)
POLICIES = ("static-max", "static-max-routed", "voltana-v0.1", "best-fixed", "voltana")
OURS = "voltana"
MAY_SAVE_LESS = {"best-fixed": 0.01, "voltana-v0.1": 0.0}
"""Than these by so much, where they keep the attainments."""


def saturation_rps(hardware: str, model: str, workload: str) -> float:
    """Requests/s at which prefill, hosts or decode are always busy at the fastest clock."""
    cell = Cell(model=model, workload=workload, rate_rps=10.0, hardware=hardware)
    scenario = scenario_of(cell, 60.0)
    trace, cluster, plant = scenario.trace, scenario.cluster, scenario.plant
    prompt, output = float(trace.prompt_tokens.mean()), float(trace.output_tokens.mean())
    fastest_mhz = cluster.hardware.clocks_mhz[-1]
    tokens = cluster.limits.max_batch_tokens
    each = max(int(prompt), 1)
    full = Load.prefill([(each, 0)] * max(tokens // each, 1))
    prefill_rps = full.prefill_tokens / each / plant.iterate(full, fastest_mhz).latency_s
    context = prompt + output / 2
    memory = cluster.kv_capacity_tokens / (context + cluster.limits.kv_reserved_tokens)
    decode_rps = 0.0
    for batch in range(8, max(min(int(memory), 2048), 8) + 1, 8):
        load = Load.decode(batch, int(batch * context))
        latency_s = plant.iterate(load, fastest_mhz).latency_s
        if latency_s <= cluster.slo.itl_s:
            decode_rps = max(decode_rps, batch / latency_s / max(output - 1, 1))
    host_s = cluster.hardware.host.request_s
    if host_s:  # of small models the hosts saturate long before the boards
        prefill_rps = min(prefill_rps, 1.0 / host_s)
    return min(cluster.prefill * prefill_rps, cluster.decode * decode_rps)


def matrix(*, quick: bool, traces: Sequence[str] = ()) -> list[Cell]:
    """All cells, or one in a hundred or so; traces are workloads like others."""
    loads, workloads = ((0.4, 0.9), WORKLOADS[:2]) if quick else (LOADS, (*WORKLOADS, *traces))
    cells = []
    for hardware in HARDWARE[:2] if quick else HARDWARE:
        for model in MODELS[4:] if quick else MODELS:
            for workload in workloads:
                most_rps = saturation_rps(hardware, model, workload)
                for share in loads if most_rps > 0.0 else ():
                    rate_rps = round(share * most_rps, 2)
                    cells.append(
                        Cell(model=model, workload=workload, rate_rps=rate_rps, hardware=hardware)
                    )
    return cells


def main(given: Sequence[str] | None = None) -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", nargs="+", default=[], help="files, beside the workloads")
    parser.add_argument("--quick", action="store_true", help="fewer cells, one seed, 60 s")
    parser.add_argument("--only", nargs="+", help="cells whose names contain one of these")
    parser.add_argument("--sample", type=int, help="so many cells, drawn at random")
    parser.add_argument("--draw", type=int, default=0, help="seed of that draw")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--duration", type=float, help="seconds of arrivals")
    parser.add_argument("--policies", nargs="+")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/matrix"))
    asked = parser.parse_args(given)
    cells = matrix(quick=asked.quick, traces=asked.traces)
    if asked.only:
        cells = [cell for cell in cells if any(part in cell.name for part in asked.only)]
    if asked.sample is not None:
        drawn = set(random.Random(asked.draw).sample(cells, min(asked.sample, len(cells))))
        cells = [cell for cell in cells if cell in drawn]
    by_cell = measure(
        cells,
        asked.policies or POLICIES,
        asked.seeds or ([21] if asked.quick else [21, 22, 23]),
        duration_s=asked.duration or (60.0 if asked.quick else 120.0),
        folder=asked.out,
        processes=asked.processes,
    )
    print("\n".join(table(by_cell)))
    print()
    print("\n".join(verdicts(by_cell, OURS, MAY_SAVE_LESS)))


if __name__ == "__main__":
    main()
