"""``python -m benchmarks.gpu.replay``: what EcoPred makes of iterations that a GPU run recorded.

Reads ``load-records.npz`` of runs (by default those that are committed), shows each iteration to a
predictor that knows nothing at first, and then its time, and writes the mean absolute errors by
kind of iteration, beside those of the mean so far.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.documents import markdown_table
from benchmarks.gpu.beside import kind_of
from benchmarks.gpu.page import MEASURED
from voltana.predictors import EcoPred
from voltana.values import Load, Outcome
from voltana_ring.layout import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CLOCK_MHZ = 1980.0
"""At which boards of the committed runs computed: none was locked."""


def iterations(path: Path) -> Iterator[tuple[Load, float]]:
    """Loads of the iterations that have ended, and their seconds."""
    for kind, *_, latency_s, tokens, pairs, requests, kv_tokens in np.load(path)["rows"]:
        if kind == Kind.FINISHED:
            load = Load(
                prefill_tokens=int(tokens),
                prefill_attended_pairs=float(pairs),
                decode_requests=int(requests),
                decode_kv_tokens=int(kv_tokens),
            )
            yield load, float(latency_s)


def errors_ms(path: Path, clock_mhz: float = CLOCK_MHZ) -> dict[str, tuple[int, float, float]]:
    """By kind of iteration: how many, the predictor's mean error, and that of the mean so far."""
    model, seen = EcoPred(max_clock_mhz=clock_mhz), dict[str, list[tuple[float, float]]]()
    sums: dict[str, float] = {}
    for load, took_s in iterations(path):
        kind = kind_of(load)
        found = seen.setdefault(kind, [])
        mean_s = sums.get(kind, 0.0) / len(found) if found else float("nan")
        expected_s = model.expected_s(load, clock_mhz)
        found.append((abs(expected_s - took_s), abs(mean_s - took_s)))
        sums[kind] = sums.get(kind, 0.0) + took_s
        model.learn(Outcome(load=load, clock_mhz=clock_mhz, latency_s=took_s, ended_at_s=0.0))
    means = {kind: 1e3 * np.nanmean(np.array(found), axis=0) for kind, found in seen.items()}
    return {kind: (len(seen[kind]), float(m[0]), float(m[1])) for kind, m in means.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a table to standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.replay", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="load-records.npz of runs")
    paths = parser.parse_args(arguments).files or sorted(MEASURED.glob("*.npz"))
    rows = [
        (path.stem, kind, str(count), f"{error:.3g}", f"{of_mean:.3g}")
        for path in paths
        for kind, (count, error, of_mean) in errors_ms(path).items()
    ]
    heads = ("run", "iterations", "how many", "error (ms)", "of the mean (ms)")
    print(markdown_table(heads, rows))


if __name__ == "__main__":
    main()
