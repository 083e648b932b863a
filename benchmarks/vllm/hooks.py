"""Thread CPU time that the hooks take of an iteration: ``python -m benchmarks.vllm.hooks``.

On a scheduler of our own that follows vLLM's rules, so that it needs none; `make test-vllm` prints
the same of a real one. There hooks run a few hundred times a second, on code and data that are in
no cache by then: `cold` sweeps the caches before each hook, and is the worst that can be. Beside
ours stand hooks of no line and of five: what none in Python can be below, on the machine at hand.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[2] / "integrations" / "vllm" / "tests"
ITERATIONS = 2000
SWEPT_BYTES = 8 * 2**20
"""More than the private caches of a core."""


def measure(
    batch: int, *, asynchronous: bool, cold: bool, hooks: str = "ours"
) -> tuple[float, float, float]:
    """10th, 50th and 99th percentile in us, with requests that come and go all the time.

    Args:
        batch: Requests that decode at once.
        asynchronous: Whether steps are scheduled before the results of those before are there.
        cold: Whether the caches are swept before each hook.
        hooks: ``ours``, or ``few`` or ``empty`` in their place.
    """
    for kind in ("unit", "real"):
        sys.path.insert(0, str(TESTS / kind))
    from fake_vllm import Request  # noqa: PLC0415  (a test's, not a package's)
    from hooked import Bench  # noqa: PLC0415

    from hook_turns import Empty, Few  # noqa: PLC0415

    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            Path(folder), budget=2048, running=batch, blocks=10**9, asynchronous=asynchronous
        )
        meter = bench.meter
        spent = [0.0]
        swept = np.zeros(SWEPT_BYTES, np.uint8)

        def timed(call: Any) -> Any:
            def around(*arguments: Any) -> None:
                if cold:
                    np.add(swept, 1, out=swept)
                began_ns = time.thread_time_ns()
                call(*arguments)
                spent[0] += time.thread_time_ns() - began_ns

            return around

        measured = {"ours": meter, "few": Few(), "empty": Empty()}[hooks]
        bench.scheduler._voltana_meter = SimpleNamespace(
            errors=0,
            now_s=meter.now_s,
            scheduled=timed(measured.scheduled),
            updated=timed(measured.updated),
        )
        number = 0
        while len(times) < ITERATIONS:
            while len(bench.scheduler.requests) < batch + 4:
                tokens = 50 + number * 37 % 300
                prompt = 20 + number * 131 % 700
                bench.scheduler.add_request(Request(f"r{number}", prompt, tokens, bench.wall_s))
                number += 1
            spent[0] = 0.0
            bench.core.step()
            if bench.core.outputs.pop().total_num_scheduled_tokens:
                times.append(spent[0] / 1e3)
        bench.close()
    p10, p50, p99 = np.percentile(times[ITERATIONS // 4 :], [10, 50, 99])
    return float(p10), float(p50), float(p99)


def main() -> None:
    """Print a table."""
    print("batch  scheduler     caches  p10 us  p50 us  p99 us")
    for batch in (8, 64, 256):
        for asynchronous in (False, True):
            for cold in (False, True):
                took = measure(batch, asynchronous=asynchronous, cold=cold)
                kind = "asynchronous" if asynchronous else "plain"
                figures = "  ".join(f"{us:6.1f}" for us in took)
                print(f"{batch:5}  {kind:12}  {'cold' if cold else 'hot':6}  {figures}")
    print("in their place, batch 8, plain, cold caches")
    for hooks in ("ours", "few", "empty"):
        took = measure(8, asynchronous=False, cold=True, hooks=hooks)
        print(f"{hooks:27}  " + "  ".join(f"{us:6.1f}" for us in took))


if __name__ == "__main__":
    main()
