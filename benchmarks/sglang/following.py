"""What the hooks cost per decode iteration, on batches that change and batches that do not.

Run as ``python -m benchmarks.sglang.following``; needs no SGLang, for objects that are shaped like
its own stand in for them. CPU time of one launch and one result, medians over blocks.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from voltana_ring.writer import RingWriter
from voltana_sglang.hooks.meter import Meter

BATCHES = (8, 64, 256)
BLOCK = 200
DECODE = 2


class Request:
    """As much of a request as the hooks look at."""

    def __init__(self, number: int) -> None:
        self.rid = f"{number:032x}"
        self.bootstrap_room = number
        self.finished_reason: object = None
        self.output_ids = [0] * 100
        self.origin_input_ids = [0] * 500
        self.seqlen = 600


class Lengths(list[int]):
    """As much of a tensor as is asked of one."""

    def tolist(self) -> list[int]:
        """Plain numbers."""
        return self


def scheduler() -> SimpleNamespace:
    """A decode server with nothing in its queues."""
    return SimpleNamespace(
        waiting_queue=[], chunked_req=None, policy=None, running_batch=None,
        disagg_prefill_bootstrap_queue=SimpleNamespace(queue=[]),
        disagg_decode_prealloc_queue=SimpleNamespace(queue=[]),
    )  # fmt: skip


def cost_us(batch: int, changed: int, blocks: int, folder: Path) -> float:
    """Median CPU time of an iteration in microseconds.

    Args:
        batch: Requests.
        changed: Those of them that end, and are replaced, at every iteration.
        blocks: How often `BLOCK` iterations are timed.
        folder: Where the ring lies.
    """
    ring = RingWriter(folder / f"b{batch}.{changed}@dp0.ring", folder / "b.bell", {})
    meter = Meter(scheduler(), ring, mode="decode", modes={DECODE: "DECODE"})
    reqs, born, times = [Request(n) for n in range(batch)], batch, []
    result = SimpleNamespace(copy_done=None)
    lengths = Lengths([600] * batch)
    for _ in range(blocks):
        spent_ns = 0
        for _ in range(BLOCK):
            if changed:
                for request in reqs[:changed]:
                    request.finished_reason = result
                reqs = [*reqs[changed:], *(Request(born + n) for n in range(changed))]
                born += changed
            running = SimpleNamespace(
                forward_mode=DECODE, reqs=reqs, seq_lens_cpu=lengths, decoding_reqs=None
            )
            before_ns = time.process_time_ns()
            launched = meter.launch(running)
            meter.finish(running, result, launched)
            spent_ns += time.process_time_ns() - before_ns
        times.append(spent_ns / BLOCK / 1e3)
    ring.close()
    return float(np.median(times))


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=30)
    given = parser.parse_args()
    print(
        "| batch | unchanged, us | 1 ends and joins, us | 4 end and join, us |\n|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for batch in BATCHES:
            cells = (cost_us(batch, n, given.blocks, Path(folder)) for n in (0, 1, 4))
            print(f"| {batch} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
