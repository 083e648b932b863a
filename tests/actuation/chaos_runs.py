"""Many rounds of chaos: in parallel, in batches that a later run need not repeat.

A batch is `BATCH` rounds with a seed of its own, on a machine and a daemon of its own. What came of
it is a file, so that a run that was ended goes on with `--resume` where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.actuation.chaos import VICTIMS, Chaos
from tests.actuation.driver import build

if TYPE_CHECKING:
    import argparse

BATCH = 54
"""Three times every victim with every signal."""


def run_all(options: argparse.Namespace) -> int:
    """Run what `chaos.main` was asked for; the exit status."""
    folder = options.out / f"lease-{options.lease:g}-slack-{options.slack:g}"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [min(BATCH, options.rounds - at) for at in range(0, options.rounds, BATCH)]
    batches = {
        folder / f"seed-{options.seed + number}-rounds-{size}.json": (options.seed + number, size)
        for number, size in enumerate(sizes)
    }
    due = {path: what for path, what in batches.items() if not (options.resume and path.exists())}
    library = build(folder)
    started_s = time.monotonic()
    if options.jobs == 1 and len(due) == len(batches) and options.rounds <= 4 * BATCH:
        for path, (seed, size) in due.items():
            _run(path, library, seed, size, lease_s=options.lease, slack_s=options.slack, tell=True)
    else:
        _run_parallel(due, options, library, len(batches))
    return _summarize([json.loads(path.read_text()) for path in batches], started_s)


def _run_parallel(
    due: dict[Path, tuple[int, int]], options: argparse.Namespace, library: Path, batches: int
) -> None:
    done = batches - len(due)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        futures = [
            pool.submit(
                _run, path, library, seed, size, lease_s=options.lease, slack_s=options.slack
            )
            for path, (seed, size) in due.items()
        ]
        for future in as_completed(futures):
            done += 1
            found = future.result()
            late = sum(one["late"] for one in found["rounds"])
            sys.stdout.write(
                f"{time.strftime('%H:%M:%S')}  batch {done} of {batches}: seed {found['seed']}, "
                f"{len(found['rounds'])} rounds, late {late}, problems {found['problems']}\n"
            )
            sys.stdout.flush()


def _run(
    path: Path,
    library: Path,
    seed: int,
    size: int,
    *,
    lease_s: float,
    slack_s: float,
    tell: bool = False,
) -> dict[str, Any]:
    """One batch; a file says what came of it."""
    with tempfile.TemporaryDirectory() as name:
        chaos = Chaos(Path(name), library, lease_s, seed, slack_s)
        try:
            chaos.run(size, tell=tell)
        except AssertionError as error:
            chaos.problems.append(f"seed {seed}, round {len(chaos.rounds)}: {error}")
    found = {
        "seed": seed,
        "rounds": [asdict(one) | {"late": one.late} for one in chaos.rounds],
        "stalled": [asdict(one) for one in chaos.stalled],
        "problems": chaos.problems,
    }
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(found))
    draft.rename(path)
    return found


def _summarize(batches: list[dict[str, Any]], started_s: float) -> int:
    rounds = [one for batch in batches for one in batch["rounds"]]
    problems = [text for batch in batches for text in batch["problems"]]
    taken_s = time.monotonic() - started_s
    sys.stdout.write(f"\n{len(rounds)} rounds of {len(batches)} seeds in {taken_s:.0f} s\n")
    for victim in VICTIMS:
        for restarted in (False, True):
            mine = [
                one for one in rounds if one["victim"] == victim and one["restarted"] == restarted
            ]
            if mine:
                worst = max(one["delay_s"] for one in mine)
                since = "the daemon's restart" if restarted else "the hit"
                sys.stdout.write(
                    f"  {victim:18s} {len(mine):5d} rounds, at defaults at most {worst:.2f} s "
                    f"after {since} (bound {mine[0]['bound_s']:.1f} s)\n"
                )
    stalled = sum(len(batch.get("stalled", ())) for batch in batches)
    sys.stdout.write(f"run again because the machine stood still meanwhile: {stalled}\n")
    late = [one for one in rounds if one["late"]]
    sys.stdout.write(f"late: {len(late)}, problems: {problems or 'none'}\n")
    for one in late:
        sys.stdout.write(f"  late: {one}\n")
    return 1 if late or problems else 0
