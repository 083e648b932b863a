"""Make mutants, run the tests that concern them, and print those that live.

``python -m tools.mutants --sample 100`` draws 100 of all; a run that was broken off goes on where
it was, as long as the sources are the same. Each mutant meets the tests of its file alone, so that
it may live here and still be caught by ``make test``; what is caught here is caught there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.mutants.changes import changes
from tools.mutants.hook import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT, ROOT / "packages/ring", ROOT / "packages/actuatord", ROOT / "integrations/sglang")
"""A copy of the tree tests itself, not what is installed."""

RESULTS = ROOT / "out" / "mutants.jsonl"
LIMIT_S = 300.0

HOLES = ("tests/test_guarantee_parts.py", "tests/test_guarantee_edges.py",
         "tests/test_guarantee_attacks.py", "tests/test_guarantee_holes.py",
         "tests/test_guarantee_labels.py")  # fmt: skip
GUARANTEE = (*HOLES, "tests/test_guarantee.py", "tests/test_guarantee_suite.py",
             "tests/test_guarantee_loop.py",
             "tests/test_guarantee_liveness.py", "tests/test_evaluation_promises.py")  # fmt: skip
REQUESTS = ("tests/test_promised_requests.py", "tests/test_guarantee_edges.py",
            "tests/test_guarantee_attacks.py",
            "integrations/sglang/tests/unit/test_agent_requests.py")  # fmt: skip
AGENT = ("integrations/sglang/tests/unit/test_agent_guarantee.py",
         "integrations/sglang/tests/unit/test_agent_kept_guarantee.py",
         "integrations/sglang/tests/unit/test_agent_attacks.py")  # fmt: skip
RESERVE = (*HOLES, "tests/test_guarantee.py", "tests/test_optimal_available.py")
CONFORMAL = "voltana/predictors/conformal/"

TESTS: dict[str, tuple[str, ...]] = {
    CONFORMAL + "quantile_tracker.py": (*GUARANTEE, *AGENT),
    CONFORMAL + "margin_book.py": (*GUARANTEE, *AGENT),
    CONFORMAL + "label_ledger.py": GUARANTEE,
    CONFORMAL + "wrapper.py": (*GUARANTEE, *AGENT),
    CONFORMAL + "scoring.py": GUARANTEE,
    CONFORMAL + "risk.py": ("tests/test_guarantee_risk.py",),
    "voltana/promise.py": GUARANTEE,
    "voltana/in_force.py": GUARANTEE,
    "voltana/loop.py": ("tests/test_loop.py", *GUARANTEE),
    "voltana/planning.py": ("tests/test_planning.py", *GUARANTEE, "tests/test_routers.py",
                            "tests/test_latency_curves.py", "tests/test_fill_up.py",
                            "tests/test_viable_batch.py", "tests/test_marginal_energy.py"),
    "voltana/slo_reserve.py": RESERVE,
    "voltana/cluster/promised_requests.py": REQUESTS,
    "voltana/cluster/request_promises.py": REQUESTS,
    "voltana/serving/agent/told_requests.py": REQUESTS[1:],
}  # fmt: skip
"""What is changed, and the tests that concern it, the quickest first."""

META = "not slow and not attack", "not mutant and not mutants"


def mutants(files: Iterable[str]) -> list[dict[str, Any]]:
    """Every mutant of the files, as it is run and reported."""
    made = []
    for file in files:
        source = (ROOT / file).read_text(encoding="utf-8")
        module = file.removesuffix(".py").replace("/", ".")
        for number, change in enumerate(changes(source)):
            made.append({
                "key": _digest(f"{source}\0{number}"), "file": file,
                "module": module, "number": number, "line": change.line, "kind": change.kind,
                "before": change.before, "after": change.after,
            })  # fmt: skip
    return made


def draw(every: list[dict[str, Any]], seed: int, sample: int) -> list[dict[str, Any]]:
    """Draw mutants, 0 takes all; those of files that have not changed since are drawn again."""
    placed = sorted(every, key=lambda mutant: _digest(f"{seed}\0{mutant['key']}"))
    return placed[:sample] if sample else placed


def tried(mutant: dict[str, Any]) -> dict[str, Any]:
    """Run the tests that concern a mutant; `caught` says by which."""
    named = {name: mutant[name] for name in ("module", "number")}
    environment = os.environ | {
        VARIABLE: json.dumps(named | {"path": str(ROOT / mutant["file"])}),
        "PYTHONPATH": os.pathsep.join(map(str, SOURCES)), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    marks, names = META
    command = [
        sys.executable, "-m", "pytest", "-x", "-q", "-p", "tools.mutants.hook", "-p",
        "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=no", "-m", marks, "-k", names,
        *TESTS[mutant["file"]],
    ]  # fmt: skip
    started_s = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S,
            check=False,
        )  # fmt: skip
        said = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        caught = "" if done.returncode == 0 else (said[0] if said else "did not start")
    except subprocess.TimeoutExpired:
        caught = "ran for too long"
    return mutant | {"caught": caught, "seconds": round(time.monotonic() - started_s, 1)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def known() -> dict[str, dict[str, Any]]:
    """What earlier runs found, by key."""
    if not RESULTS.exists():
        return {}
    lines = RESULTS.read_text(encoding="utf-8").splitlines()
    return {found["key"]: found for found in map(json.loads, filter(None, lines))}


def main() -> int:
    """Run, and print the survivors; 1 if more than the allowed share lives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=100, help="mutants; 0 takes all")
    parser.add_argument("--seed", type=int, default=0, help="which are drawn")
    parser.add_argument("--file", action="append", choices=sorted(TESTS), help="of these alone")
    parser.add_argument("--jobs", type=int, default=2, help="at the same time")
    parser.add_argument("--most-alive", type=float, default=0.1, help="share that may live")
    parser.add_argument("--again", action="store_true", help="forget earlier runs")
    given = parser.parse_args()
    every = mutants(given.file or TESTS)
    drawn = draw(every, given.seed, given.sample)
    before = {} if given.again else known()
    results = [before[mutant["key"]] for mutant in drawn if mutant["key"] in before]
    left = [mutant for mutant in drawn if mutant["key"] not in before]
    print(f"{len(drawn)} of {len(every)} mutants, {len(results)} known from before", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(given.jobs) as pool, RESULTS.open("a", encoding="utf-8") as file:
        for result in pool.map(tried, left):
            results.append(result)
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(f"{len(results)}/{len(drawn)} {line_of(result)}", flush=True)
    alive = [result for result in results if not result["caught"]]
    print(f"\n{len(alive)} of {len(results)} live:")
    for result in alive:
        print(f"  {line_of(result)}")
    return int(len(alive) > given.most_alive * len(results))


def line_of(result: dict[str, Any]) -> str:
    """A result in a line."""
    what = f"{result['file']}:{result['line']} {result['kind']}"
    changed = f"{result['before'][:60]!r} -> {result['after'][:60]!r}"
    return (
        f"{'caught' if result['caught'] else 'LIVES'} {result['seconds']:.0f} s {what}: {changed}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
