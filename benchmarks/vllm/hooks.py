"""Thread CPU time that the hooks take of an iteration: ``python -m benchmarks.vllm.hooks``.

On a scheduler of our own that follows vLLM's rules, so that it needs none; `make test-vllm` prints
the same of a real one. There hooks run a few hundred times a second, on code and data that are in
no cache by then: `cold` sweeps the caches before each hook, and is the worst that can be. Beside
ours stand hooks of no line and of five: what none in Python can be below, on the machine at hand.
And ours without their bell, and without their ring as well: what the two take of them.
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
ROUNDS = 3
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
        hooks: ``ours``; these with ``no bell`` or with ``no ring`` and no bell; or ``few`` or
            ``empty`` in their place.
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

        _leave_out(meter, hooks)
        measured = {"few": Few(), "empty": Empty()}.get(hooks, meter)
        bench.scheduler._voltana_meter = SimpleNamespace(
            errors=0,
            now_s=meter.now_s,
            due=None,
            scheduled=timed(measured.scheduled),
            asked=timed(measured.asked),
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


def _leave_out(meter: Any, hooks: str) -> None:
    """Make what is left out of the meter's ring do nothing."""
    left_out = {"no bell": ("ring",), "no ring": ("ring", "put")}
    for name in left_out.get(hooks, ()):
        setattr(meter._ring, name, lambda *_arguments: None)


def _alternate(batch: int, kinds: tuple[str, ...]) -> None:
    """Print medians over rounds of all kinds of hooks in turn: the machine's speed wavers."""
    took = [
        [measure(batch, asynchronous=False, cold=True, hooks=kind) for kind in kinds]
        for _ in range(ROUNDS)
    ]
    for kind, row in zip(kinds, np.median(took, axis=0), strict=True):
        print(f"{kind:27}  " + "  ".join(f"{us:6.1f}" for us in row))


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
    for batch in (8, 64):
        print(f"in their place, batch {batch}, plain, cold caches, {ROUNDS} rounds in turn")
        _alternate(batch, ("ours", "no bell", "no ring", "few", "empty"))


if __name__ == "__main__":
    main()
