"""Thread CPU time that the hooks take of an iteration: ``python -m benchmarks.vllm.hooks``.

On a scheduler of our own that follows vLLM's rules, so that it needs none; `make test-vllm` prints
the same of a real one. There hooks run a few hundred times a second, on code and data that are in
no cache by then: `cold` sweeps the caches before each hook, and is the worst that can be. Beside
ours stand hooks of no line and of five: what none in Python can be below, on the machine at hand.
Requests come and go all the time, or decode together: most batches
repeat the one before then. Where an engine waits for other processes it is done meanwhile what a
batch needs that does not; the rest is on the way of a batch.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana_ring.hooks.guard import METER
from voltana_vllm.hooks.around import HOOKS, MORE_HOOKS

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = Path(__file__).parents[2] / "integrations" / "vllm" / "tests"
ITERATIONS = 2000
ROUNDS = 3
SWEPT_BYTES = 8 * 2**20
"""More than the private caches of a core."""


METHODS = {
    "scheduled": "schedule",
    "asked": "get_grammar_bitmask",
    "freed": "_free_request",
    "updated": "update_from_output",
}


class Timed:
    """Hooks, and the thread CPU time of an iteration that they take, with what calls them.

    Args:
        hooks: What is timed.
        sweep: Called before each.
    """

    errors = 0

    def __init__(self, hooks: Any, sweep: Callable[[], None]) -> None:
        self.now_s = time.monotonic
        self.spent_us = dict.fromkeys(METHODS, 0.0)
        self._hooks = hooks
        self._scheduler = SimpleNamespace(**{METER: hooks})
        for name, method in METHODS.items():
            around = (HOOKS | MORE_HOOKS)[method](lambda _scheduler, output, *_more: output)
            setattr(self, name, self._timed(name, around, sweep))

    @property
    def due(self) -> Any:
        """What is scheduled and not measured."""
        return self._hooks.due

    def _timed(self, name: str, call: Any, sweep: Callable[[], None]) -> Any:
        def around(output: Any = None, *_ready: float) -> None:
            sweep()
            began_ns = time.thread_time_ns()
            call(self._scheduler, output)
            self.spent_us[name] += (time.thread_time_ns() - began_ns) / 1e3

        return around


def measure(
    batch: int,
    *,
    asynchronous: bool,
    cold: bool,
    hooks: str = "ours",
    together: bool = False,
) -> tuple[float, ...]:
    """10th, 50th and 99th percentile in us.

    Of an iteration, and behind these three the last two of what is on its way.

    Args:
        batch: Requests that decode at once.
        asynchronous: Whether steps are scheduled before the results of those before are there.
        cold: Whether the caches are swept before each hook.
        hooks: ``ours``; these with ``no wait`` of the engine; or ``few`` or
            ``empty`` in their place.
        together: Whether requests decode together, and do not come and go all the time.
    """
    for kind in ("unit", "real"):
        sys.path.insert(0, str(TESTS / kind))
    from fake_vllm import Request  # noqa: PLC0415  (a test's, not a package's)
    from hooked import Bench  # noqa: PLC0415

    from hook_turns import Empty, Few  # noqa: PLC0415

    times: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            Path(folder),
            budget=2048,
            running=batch,
            blocks=10**9,
            asynchronous=asynchronous,
            waits=hooks != "no wait",
        )
        meter = bench.meter
        swept = np.zeros(SWEPT_BYTES if cold else 0, np.uint8)
        measured = {"few": Few(), "empty": Empty()}.get(hooks, meter)
        timed = Timed(measured, lambda: np.add(swept, 1, out=swept))
        bench.scheduler._voltana_meter = timed
        number = 0
        while len(times) < ITERATIONS:
            while len(bench.scheduler.requests) < batch + 4 * (not together):
                tokens = 800 if together else 50 + number * 37 % 300
                prompt = 20 + number * 131 % 700
                bench.scheduler.add_request(Request(f"r{number}", prompt, tokens, bench.wall_s))
                number += 1
            spent_us = timed.spent_us = dict.fromkeys(timed.spent_us, 0.0)
            bench.core.step()
            if bench.core.outputs.pop().total_num_scheduled_tokens:
                whole = sum(spent_us.values())
                times.append((whole, whole - spent_us["asked"]))
        bench.close()
    whole, on_the_way = np.array(times[ITERATIONS // 4 :]).T
    return *np.percentile(whole, [10, 50, 99]), *np.percentile(on_the_way, [50, 99])


def _alternate(batch: int, kinds: tuple[str, ...], *, together: bool) -> None:
    """Print medians over rounds of all kinds of hooks in turn: the machine's speed wavers."""
    took = [
        [
            measure(batch, asynchronous=False, cold=True, hooks=kind, together=together)
            for kind in kinds
        ]
        for _ in range(ROUNDS)
    ]
    for kind, row in zip(kinds, np.median(took, axis=0), strict=True):
        print(f"{kind:27}  " + "  ".join(f"{us:6.1f}" for us in row))


def main() -> None:
    """Print a table."""
    print("batch  scheduler     caches  p10 us  p50 us  p99 us  on the way: p50, p99 us")
    for batch in (8, 64, 256):
        for asynchronous in (False, True):
            for cold in (False, True):
                took = measure(batch, asynchronous=asynchronous, cold=cold)
                kind = "asynchronous" if asynchronous else "plain"
                figures = "  ".join(f"{us:6.1f}" for us in took)
                print(f"{batch:5}  {kind:12}  {'cold' if cold else 'hot':6}  {figures}")
    for together in (False, True):
        for batch in (8, 64):
            kind = "together" if together else "coming and going"
            print(
                f"in their place, batch {batch} {kind}, plain, cold caches, {ROUNDS} rounds in turn"
            )
            _alternate(batch, ("ours", "no wait", "few", "empty"), together=together)


if __name__ == "__main__":
    main()
