"""``make bench-sglang``: hooks, throughput and routers; JSON with ``--json FILE``."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.sglang import crowd, overhead, routers
from integrations.sglang.tests.real.servers import Fleet
from voltana_sglang_cpu.tiny_model import make_tiny_model

CONFIG = """
[agent]
rings = "rings"
"""
LIMITS = {"p50_us": 15.0, "p99_us": 100.0, "ratio_low": 0.98}


def main() -> int:
    """Run what is asked for; the exit status says whether every limit is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("hooks", "toggled", "throughput", "routers", "crowd"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "voltana.toml"
        config.write_text(CONFIG)
        fleet = Fleet(make_tiny_model(folder / "model"), folder)
        try:
            results = _run(fleet, config, options.only)
        finally:
            fleet.stop()
    text = json.dumps(results, indent=2)
    sys.stdout.write(text + "\n")
    if options.json:
        options.json.write_text(text + "\n")
    return _judge(results)


def _run(fleet: Fleet, config: Path, only: str | None) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if only in {None, "hooks"}:
        results["hooks"] = overhead.hook_cost(fleet, config)
    if only in {None, "toggled"}:
        results["toggled"] = overhead.toggled(fleet, config)
    if only in {None, "throughput"}:
        results["throughput"] = overhead.throughput(fleet, config)
    if only in {None, "routers"}:
        results["routers"] = routers.compare(fleet)
    if only in {None, "crowd"}:
        results["crowd"] = asyncio.run(crowd.measure())
    return results


def _judge(results: dict[str, Any]) -> int:
    hooks, throughput = results.get("hooks", {}), results.get("throughput", {})
    missed = [name for name in ("p50_us", "p99_us") if hooks.get(name, 0.0) > LIMITS[name]]
    if throughput.get("ratio_low", 1.0) < LIMITS["ratio_low"]:
        missed.append("ratio_low")
    said = [f"{name}, limit {LIMITS[name]:g}" for name in missed]
    said += crowd.missed(results.get("crowd", {}))
    for text in said:
        sys.stdout.write(f"limit missed: {text}\n")
    return len(said)


if __name__ == "__main__":
    sys.exit(main())
