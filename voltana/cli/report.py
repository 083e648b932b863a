"""`voltana report`: a run or a sweep as one HTML file that needs nothing else."""

from pathlib import Path
from typing import Annotated

import typer

from voltana.cli import scenario_flags as flags
from voltana.cli.terminal import configure_logs, prepare_outputs
from voltana.errors import ConfigError, invalid
from voltana.extras import require

_WHAT = typer.Argument(
    metavar="RUN|SWEEP", help="A folder of 'voltana simulate --out' or 'voltana sweep --out'."
)
_OUT = typer.Option("--out", metavar="FILE", help="The HTML file (report.html in the folder).")


def report(
    what: Annotated[Path, _WHAT],
    *,
    out: Annotated[Path | None, _OUT] = None,
    price: Annotated[str | None, flags.PRICE] = None,
    currency: Annotated[str, flags.CURRENCY] = flags.DEFAULT_CURRENCY,
    carbon: Annotated[str | None, flags.CARBON] = None,
    log_level: Annotated[str, flags.LOG] = "warning",
) -> None:
    """Make one HTML file of a run or a sweep: figures, tables, and what they mean.

    It opens anywhere, without a network; every figure is there as a table too. A sweep takes
    constant prices; give a run's to 'voltana simulate', which knows when energy was used.

    \b
    A run:     voltana simulate --out out/demo; voltana report out/demo
    A sweep:   voltana sweep --grid rate=40..80..10; voltana report out/sweep --price 0.3
    """  # noqa: D301  (\b keeps typer from reflowing the examples)
    configure_logs(log_level)
    if out is not None and out.suffix.lower() not in {".html", ".htm"}:
        raise invalid(
            "--out", str(out), "a name that ends in .html", "Other names may be files of the run."
        )
    require("report", "voltana report")
    from voltana.evaluation.partial import PARTIAL
    from voltana.evaluation.report.build import page_bytes, run_page, sweep_page
    from voltana.evaluation.report.series import SERIES
    from voltana.whole_file import write_whole

    tariffs = flags.tariffs(price, currency, carbon)
    if any((what / name).is_file() for name in (SERIES, PARTIAL)):
        _refuse_both(what)
        if tariffs:
            raise ConfigError(
                "prices of a run are not taken here: they need the power at every time. Give them "
                f"to 'voltana simulate {what}/scenario.toml --out {what}'."
            )
        page = run_page(what)
    else:
        _check_there(what)
        require("sweep", "the report of a sweep")
        varying = [name for name, tariff in tariffs.items() if len(tariff.per_kwh) > 1]
        if varying:
            raise ConfigError(
                f"{varying[0]} over time is not taken for a sweep, which keeps no power over time. "
                "Give one figure per kWh, or the series to 'voltana simulate'."
            )
        page = sweep_page(what, {name: float(t.per_kwh[0]) for name, t in tariffs.items()})
    target = out or (what if what.is_dir() else what.parent) / "report.html"
    prepare_outputs(target.parent, None)
    write_whole(target, page_bytes(page, what))
    typer.echo(f"Wrote {target}", err=True)


def _refuse_both(run: Path) -> None:
    """Refuse a folder that a sweep was written into as well: the report could be of either."""
    from voltana.evaluation.sweep.store import RESULTS

    if _holds_sweep(run):
        raise ConfigError(
            f"{str(run)!r} holds a run and a sweep. Move one of them away, or name the "
            f"sweep's file, {run / RESULTS}."
        )


def _check_there(what: Path) -> None:
    """Refuse a path at which there is nothing to report of."""
    if not (_holds_sweep(what) or what.is_file()):
        reason = "holds neither a run nor a sweep" if what.exists() else "is not there"
        raise ConfigError(
            f"{str(what)!r} {reason}. Name a folder of 'voltana simulate --out' or of "
            "'voltana sweep --out'."
        )


def _holds_sweep(folder: Path) -> bool:
    """Whether a sweep was written there, or begun."""
    from voltana.evaluation.sweep.store import PLAN, RESULTS

    return any((folder / name).exists() for name in (RESULTS, PLAN))
