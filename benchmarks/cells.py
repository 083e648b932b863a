"""Cells of a benchmark: one cluster under one load, and how many of them are run and remembered.

A cell and a seed are one unit of work. Units run in processes of their own; each finished one is a
line of a file, so that a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.sweep import results

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from voltana.policy import Policy

MODELS = Path(__file__).parent / "models"
"""Configurations of models that are no profiles of the project: a mixture of experts, and MLA."""

Row = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cluster under one load.

    Attributes:
        model: A profile, or the name of a file of `MODELS`.
        workload: Its name, or a trace as ``FORMAT:FILE``.
        rate_rps: Requests per second.
        hardware: A profile.
        tensor_parallel: Boards of an instance; None for the model's default.
        pairs: Prefill instances, and as many decode instances.
        ttft_ms: TTFT threshold.
        itl_ms: ITL threshold.
    """

    model: str
    workload: str
    rate_rps: float
    hardware: str = "a100-sxm4-80gb"
    tensor_parallel: int | None = None
    pairs: int = 2
    ttft_ms: float = 600.0
    itl_ms: float = 60.0

    @property
    def name(self) -> str:
        """Short and unique."""
        workload = self.workload.rpartition("/")[2]
        slo = f"{self.ttft_ms:g}/{self.itl_ms:g}"
        return f"{self.hardware} {self.model} {workload} {self.rate_rps:g} {slo}"

    def flags(self, duration_s: float) -> dict[str, object]:
        """The tables of its scenario."""
        file = MODELS / f"{self.model}.json"
        cluster = {
            "hardware": self.hardware,
            "model": str(file) if file.exists() else self.model,
            "tensor_parallel": self.tensor_parallel,
            "prefill": self.pairs,
            "decode": self.pairs,
        }
        kind, colon, path = self.workload.partition(":")
        load = (
            {"trace": {"file": path, "format": kind, "rate_rps": self.rate_rps,
                       "duration_s": duration_s}}
            if colon
            else {"workload": {"name": kind, "rate_rps": self.rate_rps, "duration_s": duration_s}}
        )  # fmt: skip
        return {"cluster": cluster, "slo": {"ttft_ms": self.ttft_ms, "itl_ms": self.itl_ms}, **load}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A cell under a seed, with all policies, which are compared on the same trace.

    Attributes:
        cell: The cell.
        seed: Of the workload and of all noise.
        duration_s: Length of the trace.
        policies: Names.
    """

    cell: Cell
    seed: int
    duration_s: float
    policies: tuple[str, ...]

    @property
    def key(self) -> str:
        """What a finished unit is found again by."""
        return json.dumps(asdict(self), sort_keys=True)


def run(unit: Unit) -> list[Row]:
    """Run a unit: one row a policy."""
    from voltana.evaluation.scenario import load_scenario  # noqa: PLC0415  (in the worker alone)

    flags = {**unit.cell.flags(unit.duration_s), "policies": list(unit.policies)}
    named: dict[str, Policy] = dict(load_scenario(None, {"seed": unit.seed, **flags}).policies)
    rows: list[Row] = []
    for policy, (result,) in results(named, [unit.seed], flags).items():
        row = {"cell": unit.cell.name, "seed": unit.seed, "policy": policy, **result.to_dict()}
        rows.append(row)
    return rows


def finished(path: Path) -> dict[str, list[Row]]:
    """The units of a file by their keys; a line that was cut off by a kill is left out."""
    done: dict[str, list[Row]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            done[entry["key"]] = entry["rows"]
    return done


def run_all(units: Sequence[Unit], path: Path, *, processes: int) -> list[Row]:
    """Run what `path` does not hold yet, append it there, and return the rows of all units."""
    done = finished(path)
    todo = [unit for unit in units if unit.key not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    with path.open("a", encoding="utf-8") as file, _pool(processes) as pool:
        file.write("\n" if path.stat().st_size else "")
        running = {pool.submit(run, unit): unit for unit in todo}
        for count, future in enumerate(concurrent.futures.as_completed(running), 1):
            unit = running[future]
            done[unit.key] = future.result()
            file.write(json.dumps({"key": unit.key, "rows": done[unit.key]}) + "\n")
            file.flush()
            os.fsync(file.fileno())
            left_s = (time.monotonic() - began_s) / count * (len(todo) - count)
            print(
                f"{count}/{len(todo)} {unit.cell.name} seed {unit.seed}, {left_s:.0f} s left",
                file=sys.stderr,
            )
    return list(_rows(units, done))


def _rows(units: Iterable[Unit], done: dict[str, list[Row]]) -> Iterable[Row]:
    for unit in units:
        yield from done[unit.key]


def _pool(processes: int) -> concurrent.futures.ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(processes, mp_context=context)
