"""How long a million rows of a trace take to read, and how much memory: one process a format.

Run as ``python -m benchmarks.traces``; the targets are 15 s and 300 MB.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS = 1_000_000
SPAN_MS = 100
READ = """
import json, re, sys, time
from pathlib import Path
from voltana.plant.workload import read_trace
started = time.process_time()
trace = read_trace(sys.argv[1])
seconds = time.process_time() - started  # whatever else the machine is doing
# Of this program alone: ru_maxrss begins with what the process that started it took.
peak_kb = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(json.dumps({"requests": len(trace), "seconds": seconds, "peak_mb": int(peak_kb) / 1e3}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of each file")
    arguments = parser.parse_args()
    print(f"{'format':<16}{'rows':>10}{'CPU s':>10}{'MB':>8}")
    for name, write in WRITERS.items():
        figures = measure(write, arguments.rows)
        requests, seconds, peak_mb = (figures[k] for k in ("requests", "seconds", "peak_mb"))
        print(f"{name:<16}{requests:>10.0f}{seconds:>10.1f}{peak_mb:>8.0f}")


def measure(write: Callable[[int], Iterator[str]], rows: int) -> dict[str, float]:
    """CPU seconds and peak memory of reading that many rows, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace"
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(f"{line}\n" for line in write(rows))
        command = [sys.executable, "-c", READ, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def azure(rows: int) -> Iterator[str]:
    """A table with dates."""
    start = datetime(2024, 5, 10)
    yield "TIMESTAMP,ContextTokens,GeneratedTokens"
    for index, prompt, output in _lengths(rows):
        at = start + timedelta(milliseconds=SPAN_MS * index)
        yield f"{at.isoformat(sep=' ')},{prompt},{output}"


def mooncake(rows: int) -> Iterator[str]:
    """One JSON object a line."""
    for index, prompt, output in _lengths(rows):
        blocks = [index, index + 1][: -(-prompt // 512)]
        yield (
            f'{{"timestamp": {SPAN_MS * index}, "input_length": {prompt}, '
            f'"output_length": {output}, "hash_ids": {blocks}}}'
        )


def array(rows: int) -> Iterator[str]:
    """One JSON array."""
    for index, prompt, output in _lengths(rows):
        yield (
            f'{"[" if index == 0 else ","}{{"arrival_s": {index / 10}, "prompt_tokens": {prompt}, '
            f'"output_tokens": {output}}}'
        )
    yield "]"


def sglang(rows: int) -> Iterator[str]:
    """The request log of SGLang."""
    for index, prompt, output in _lengths(rows):
        meta = {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "e2e_latency": 0.25,
            "request_received_ts": 1_769_440_000 + index / 10,
        }
        entry = {"timestamp": "2026-01-05T13:41:26.5", "event": "request.finished", "rid": "a"}
        line = json.dumps({**entry, "obj": {"rid": "a"}, "out": {"meta_info": meta}})
        yield f"[2026-01-05 13:41:26] {line}"


def sessions(rows: int) -> Iterator[str]:
    """Sessions of AIPerf with four turns each."""
    for index, prompt, output in _lengths(rows):
        when = '"delay": 2000' if index % 4 else f'"timestamp": {SPAN_MS * index}'
        yield (
            f'{{"session_id": {index // 4}, {when}, "input_length": {prompt}, '
            f'"output_length": {output}}}'
        )


def _lengths(rows: int) -> Iterator[tuple[int, int, int]]:
    draw = random.Random(0)
    for index in range(rows):
        yield index, draw.randint(1, 4000), draw.randint(1, 500)


WRITERS = {
    "azure": azure,
    "mooncake": mooncake,
    "jsonl, array": array,
    "sglang": sglang,
    "aiperf": sessions,
}

if __name__ == "__main__":
    main()
