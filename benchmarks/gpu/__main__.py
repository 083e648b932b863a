"""``python -m benchmarks.gpu --model FOLDER``: everything that a machine with a GPU can tell.

Doctor and board, the idle board, decode and prefill grids, then plugin, predictor and hooks under
load in dry run. Reads only: no clock, limit or mode is ever set. A run that ended early is taken up
where it was. Writes ``results.json`` into ``--out``, and the figures into a page beside it.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from benchmarks.gpu.board import board_steps
from benchmarks.gpu.grid import Bench, Progress, decode_grid, missing_prompts, prefill_grid
from benchmarks.gpu.page import write_page
from benchmarks.gpu.readings import ReadOnlyGpu
from benchmarks.gpu.results import Results
from benchmarks.gpu.settings import model_of, parse, profile_of
from voltana.errors import ConfigError, VoltanaError
from voltana.plant import PlantModel
from voltana_actuatord.doctor import examine
from voltana_actuatord.drivers.opening import open_driver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.gpu.settings import Settings

REFUSED = 2
SOCKET = "/run/voltana/actuator.sock"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every step that is missing; the exit status is 2 where one cannot be."""
    try:
        settings = parse(arguments)
        settings.out.mkdir(parents=True, exist_ok=True)
        _run(settings)
    except (VoltanaError, OSError) as error:
        sys.stderr.write(f"gpu: {error}\n")
        return REFUSED
    except KeyboardInterrupt:
        sys.stderr.write("gpu: interrupted; the same command goes on from here\n")
        return REFUSED
    return 0


def _run(settings: Settings) -> None:
    with contextlib.closing(open_driver()) as driver:
        gpus = tuple(ReadOnlyGpu(driver.gpu(index)) for index in settings.gpus)
        board = gpus[0].name()
        results = Results(settings.out / "results.json", settings.about(board, driver.version()))
        try:
            _measure(settings, gpus, results)
        finally:
            if results.path.exists():
                write_page(settings.page or settings.out / "gpu.md", results.figures)


def _measure(settings: Settings, gpus: tuple[ReadOnlyGpu, ...], results: Results) -> None:
    try:
        from benchmarks.gpu.load import loaded, timing, toggled  # noqa: PLC0415  (needs what SGLang brings)
        from benchmarks.gpu.serving import Servers, say  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"{error}: must be there. Run this in the environment of SGLang, with voltana-sglang "
            "and voltana[serving] installed beside it."
        ) from None
    servers = Servers(settings)
    hardware, model = profile_of(settings, gpus[0].name()), model_of(settings)
    plant = PlantModel(hardware, model, len(gpus)) if hardware and model else None
    if plant is None:
        say("plant", "nothing to compare with: board or model has no profile (--hardware)")
    bench = Bench(settings=settings, servers=servers, results=results, gpus=gpus, plant=plant)
    progress, steps = Progress(say), settings.steps
    if "board" in steps:
        results.step("doctor", lambda: [asdict(one) for one in examine(settings.gpus, SOCKET)])
        results.step("boards", lambda: [gpu.facts() for gpu in gpus])
        board_steps(settings, gpus, results, say)
    if "decode" in steps:
        decode_grid(bench, progress)
    prefill, load = "prefill" in steps, "load" in steps and "load" not in results.figures
    if load or (prefill and missing_prompts(bench)):
        with servers.with_agent(timing(servers.folder)) as (instance, agent):
            if prefill:
                prefill_grid(bench, instance, progress)
            if load:
                say("load", f"{settings.rate_rps:g} requests/s for {settings.load_s:g} s")
                results.put("load", loaded(bench, instance, agent))
    if "toggled" in steps and "toggled" not in results.figures:
        say("toggled", "hooks off and on in turns")
        results.put("toggled", toggled(bench, servers.folder / "toggled.ns"))
    say("done", str(results.path))


if __name__ == "__main__":
    sys.exit(main())
