"""Plays to the plant's scheduler what the scheduler of a real server saw, and compares batches."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import batch_log
from servers import ServerSpec
from voltana.plant.colocated.request import EngineRequest
from voltana.plant.colocated.scheduler import EngineScheduler, SchedulerOptions
from voltana.values import Prefix

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Fleet, Server


def started(
    name: str, arguments: tuple[str, ...], fleet: Fleet, folder: Path
) -> tuple[Server, Path]:
    """A server that writes down what its scheduler sees, and where."""
    log = folder / "batches.jsonl"
    batch_log.install(folder / "plugin")
    here = os.path.dirname(batch_log.__file__)  # noqa: PTH120
    path = os.pathsep.join([str(folder / "plugin"), here, os.environ.get("PYTHONPATH", "")])
    environment = ((batch_log.VARIABLE, str(log)), ("PYTHONPATH", path))
    spec = ServerSpec(name=f"batches-{name}", environment=environment, arguments=arguments)
    return fleet.get(spec)[0], log


def replayed(log: Path) -> tuple[EngineScheduler, dict[str, EngineRequest], int]:
    """Play what a server saw; its batches are compared one by one.

    Returns:
        The scheduler, its requests by their names, and how many iterations there were.
    """
    (_, options), *events = (json.loads(line) for line in log.read_text().splitlines())
    scheduler = EngineScheduler(SchedulerOptions(**options))
    requests: dict[str, EngineRequest] = {}
    iterations = 0
    for event in events:
        if event[0] == "arrived":
            _, rid, prompt, most = event
            prefix = Prefix(tuple(prompt), 1) if options["prefix_cache"] else None
            requests[rid] = EngineRequest(rid, len(prompt), most, prefix=prefix)
            scheduler.add(requests[rid])
        elif event[0] == "commit":
            scheduler.commit()
        else:
            batch = scheduler.schedule()
            formed = None
            if batch is not None:
                iterations += 1
                in_cache = sum(r.cached for r in batch.requests)
                chunks = [[c.request.key, c.new_tokens] for c in batch.chunks]
                formed = [chunks, [r.key for r in batch.decode], in_cache]
            assert formed == event[1], f"iteration {iterations}"
    return scheduler, requests, iterations
