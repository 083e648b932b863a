"""The command ``profile``: a short calibration of a live server."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path  # noqa: TC003  (typer reads annotations at run time)
from typing import TYPE_CHECKING, Annotated

import typer

from voltana.errors import ConfigError, invalid
from voltana.serving.profile.design import (
    Design,
    decode_candidates,
    design,
    prefill_candidates,
    spread,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voltana.predictors.profile import Stack
    from voltana.serving.profile.clock import LeasedClock
    from voltana.serving.profile.run import Iterations, ProfiledServer
    from voltana.values import Outcome

LEAST_CLOCKS = 2
WARM_UP_POINTS = 4


def profile(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="The server, such as http://127.0.0.1:31001.")],
    *,
    out: Annotated[Path, typer.Option(help="Where the profile goes.")],
    instance: Annotated[str, typer.Option(help="Its name, as its plugin was told it.")],
    gpus: Annotated[
        str,
        typer.Option(
            help="GPUs of the server: UUIDs, or indices as this process counts them, such as 0,1; "
            "empty leaves the clock alone."
        ),
    ] = "",
    clock: Annotated[
        float | None, typer.Option(help="Clock in MHz that is counted where none is set.")
    ] = None,
    clocks: Annotated[int, typer.Option(help="How many clocks to measure at.")] = 5,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The configuration (TOML) that the server runs with."),
    ] = None,
    visits: Annotated[
        int,
        typer.Option(
            help="How often to run each point; more where other processes share the machine."
        ),
    ] = 3,
    seed: Annotated[int, typer.Option(help="Of prompts and of points that are held back.")] = 0,
) -> None:
    """Measure a live server at the fewest loads and clocks that tell how its latency behaves.

    Takes minutes. The server should have nothing else to do, and its agent must not hold its GPUs.
    The profile warm-starts the predictor: name it in the agent's configuration.
    """
    from voltana.serving.config import read_config  # noqa: PLC0415  (--help answers at once)
    from voltana.serving.dialect import dialect_of  # noqa: PLC0415
    from voltana.serving.profile.source import RingIterations  # noqa: PLC0415

    if clocks < LEAST_CLOCKS:
        raise invalid("clocks", clocks, f"{LEAST_CLOCKS} or more", "5 is usual.")
    if visits < 1:
        raise invalid("visits", visits, "1 or more", "3 is usual.")
    dialect = dialect_of(context)
    settings = read_config(config, dialect.config)
    server = dialect.profiled(url, seed, settings.router)
    rings = settings.agent.rings
    with (
        _leased(gpus, settings.actuator.socket) as leased,
        RingIterations(rings, instance) as iterations,
    ):
        levels = _levels(leased, clock, clocks)
        designs = [_design(server, phase, levels, seed) for phase in server.phases]
        started_s = time.monotonic()
        fitted, held_back = _measure(server, designs, iterations, leased, visits=visits, seed=seed)
        elapsed_s = time.monotonic() - started_s
        stack = iterations.stack(settings.engine.hardware)
    _save(stack, max(levels), fitted, out)
    _tell(designs, visits, fitted, held_back, elapsed_s=elapsed_s, out=out)


@contextlib.contextmanager
def _leased(gpus: str, socket: Path) -> Iterator[LeasedClock | None]:
    if not gpus:
        yield None
        return
    from voltana.serving.profile.clock import LeasedClock  # noqa: PLC0415
    from voltana_actuatord.gpu_names import gpu_uuids, parse_gpus  # noqa: PLC0415

    with LeasedClock(gpu_uuids(parse_gpus(gpus)), socket) as leased:
        yield leased


def _levels(leased: LeasedClock | None, clock: float | None, count: int) -> tuple[float, ...]:
    if leased is not None:
        return spread(leased.levels_mhz, count)
    if clock is None or not clock > 0:
        raise invalid(
            "clock", clock, "above 0 MHz where no --gpus are given", "Name the GPUs, or the clock."
        )
    return (clock,)


def _design(server: ProfiledServer, phase: str, levels: tuple[float, ...], seed: int) -> Design:
    from voltana.serving.profile.run import DECODE_STEPS  # noqa: PLC0415
    from voltana.values import Phase  # noqa: PLC0415

    limits = server.about.limits
    candidates = (
        prefill_candidates(limits, levels)
        if phase == Phase.PREFILL
        else decode_candidates(limits, levels, DECODE_STEPS)
    )
    return design(candidates, max_clock_mhz=max(levels), seed=seed)


def _measure(
    server: ProfiledServer,
    designs: list[Design],
    iterations: Iterations,
    leased: LeasedClock | None,
    *,
    visits: int,
    seed: int,
) -> tuple[list[Outcome], list[Outcome]]:
    """Iterations to fit to, and those held back.

    Every visit takes all points in a random order of its own: a machine that is slower for a while
    makes all of them look slow, rather than one (blocks, in the words of experimental design).
    """
    import numpy as np  # noqa: PLC0415

    from voltana.serving.profile.run import measure  # noqa: PLC0415

    fitted = [point for made in designs for point in made.fitted]
    points = [*fitted, *(point for made in designs for point in made.held_back)]
    rng = np.random.default_rng(seed)
    order = [int(i) for _ in range(visits) for i in rng.permutation(len(points))]
    for point in points[:: max(1, len(points) // WARM_UP_POINTS)]:
        server.run(point)  # what an engine does for the first time takes longer
    with _progress(len(order)) as advance:
        runs = measure(server, [points[i] for i in order], iterations, leased, advance)
    visited = list(zip(order, runs, strict=True))
    return (
        [outcome for i, run in visited if i < len(fitted) for outcome in run],
        [outcome for i, run in visited if i >= len(fitted) for outcome in run],
    )


def _save(stack: Stack, max_clock_mhz: float, fitted: list[Outcome], out: Path) -> None:
    from voltana.predictors.offline import fit_profile  # noqa: PLC0415
    from voltana.predictors.profile import save_profile  # noqa: PLC0415

    if not fitted:
        raise ConfigError(
            "the plugin measured nothing: must be loaded in this very server. "
            "Look for 'voltana' in its log, and check --instance."
        )
    save_profile(fit_profile(fitted, stack=stack, max_clock_mhz=max_clock_mhz), out)


def _tell(
    designs: list[Design],
    visits: int,
    fitted: list[Outcome],
    held_back: list[Outcome],
    *,
    elapsed_s: float,
    out: Path,
) -> None:
    from voltana.serving.profile.profile_report import held_back_errors  # noqa: PLC0415

    points = sum(len(made.fitted) for made in designs)
    spared = sum(len(made.held_back) for made in designs)
    typer.echo(
        f"{points} points for {sum(made.coefficients for made in designs)} coefficients, "
        f"{spared} held back, {visits} visits to each, "
        f"{len(fitted) + len(held_back)} iterations in {elapsed_s:.0f} s"
    )
    for errors in held_back_errors(out, fitted, held_back):
        typer.echo(str(errors))
    typer.echo(f"profile: {out}")


@contextlib.contextmanager
def _progress(points: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("points", total=points)
        yield lambda: progress.update(task, advance=1)
