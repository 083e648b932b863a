"""`voltana plant fit`: measurements of one's own board to a hardware profile."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voltana.cli.terminal import prepare_outputs
from voltana.errors import invalid

if TYPE_CHECKING:
    from voltana.plant.fit.board import FittedBoard

_MEASUREMENTS = typer.Argument(
    metavar="CSV",
    help="Columns phase (decode, prefill or idle), batch, context, clock_mhz (that ran), "
    "latency_ms or latency_s, and power_w of all boards of the instance, if it was measured.",
)
_BASE = typer.Option(
    help="What to start from, a name or a TOML file: its published numbers (memory, peaks, clocks, "
    "limit) must be the board's."
)
_MODEL = typer.Option(help="What was served: a name, a TOML file, or a config.json.")
_TP = typer.Option(help="Boards of the instance; default: the model's usual.")
_OUT = typer.Option(help="TOML file to write the profile to, for --hardware.")
_NAME = typer.Option(help="Name of the new profile; default: that of --out.")
_JSON = typer.Option("--json", help="Print JSON instead of tables.")


def fit(
    measurements: Annotated[Path, _MEASUREMENTS],
    *,
    hardware: Annotated[str, _BASE],
    model: Annotated[str, _MODEL],
    tp: Annotated[int | None, _TP] = None,
    out: Annotated[Path | None, _OUT] = None,
    name: Annotated[str | None, _NAME] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Fit a hardware profile to measured iterations of your own board.

    Prints each coefficient with its stated error (99.7 of 100 such measurements), what the rows do
    not tell, and the residuals. Rows at the board's power limit are left out.

    \b
    Example:
      voltana plant fit mine.csv --hardware h100-sxm --model llama-3.1-8b --out mine.toml
      voltana simulate --hardware mine.toml
    """  # noqa: D301  (\b is typer's mark for a paragraph that must keep its lines)
    from voltana.plant import load_hardware, load_model
    from voltana.plant.fit.board import fit_board
    from voltana.plant.fit.measurements import read_measurements
    from voltana.plant.fit.profile import described
    from voltana.plant.latency import LatencyModel
    from voltana.plant.profile_text import profile_toml
    from voltana.whole_file import write_whole

    base, profile = load_hardware(hardware), load_model(model)
    boards = profile.default_tensor_parallel if tp is None else tp
    LatencyModel(base, profile, boards)  # refuses a number of boards that the model cannot have
    if out is not None and out.suffix != ".toml":
        raise invalid("--out", str(out), "a name that ends in .toml", "Name it so.")
    prepare_outputs(None if out is None else out.parent, None)
    rows = read_measurements(
        measurements,
        clocks_mhz=(base.clocks.min_mhz, base.clocks.max_mhz),
        most_w=2.0 * boards * base.tdp_w,
    )
    fitted = fit_board(base, profile, rows, tensor_parallel=boards)
    called = name or (f"{base.name}-fitted" if out is None else out.stem)
    source = f"{measurements.name} ({profile.name} on {boards} boards)"
    board = described(fitted, rows, base=base, name=called, source=source)
    if out is not None:
        write_whole(out, profile_toml(board).encode())
    if as_json:
        typer.echo(json.dumps(_json(fitted, called), indent=2))
        return
    _print(fitted, called)
    typer.echo(board.knowledge.caveat(board.name))
    if out is None:
        typer.echo("Nothing was written: --out FILE.toml writes the profile.")


def _json(fitted: "FittedBoard", name: str) -> dict[str, object]:
    return {
        "name": name,
        "coefficients": [asdict(each) for each in fitted.coefficients],
        "residuals": [asdict(each) for each in fitted.residuals],
        "lines_at_power_limit": list(fitted.at_limit),
        "lines_repeated": list(fitted.repeated),
    }


def _print(fitted: "FittedBoard", name: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{name}: coefficients", title_justify="left")
    for head in ("coefficient", "before", "fitted", "stated error"):
        table.add_column(head, justify="left" if head == "coefficient" else "right")
    for each in fitted.coefficients:
        error = f"{100 * each.error:.2g} %" if each.told else "not told"
        table.add_row(each.name, f"{each.base:.4g}", f"{each.value:.4g}", error)
    residuals = Table(title="plant over measurement, minus 1", title_justify="left")
    for head in ("what", "rows", "median absolute", "bias", "worst", "at line"):
        residuals.add_column(head, justify="left" if head == "what" else "right")
    for one in fitted.residuals:
        residuals.add_row(
            one.what,
            str(one.rows),
            f"{100 * one.median:.2f} %",
            f"{100 * one.bias:+.2f} %",
            f"{100 * one.worst:+.1f} %",
            str(one.worst_line),
        )
    console = Console()
    console.print(table)
    console.print(residuals)
    if fitted.at_limit:
        typer.echo(
            f"{len(fitted.at_limit)} rows lie at the board's power limit and were left out "
            f"(first: line {fitted.at_limit[0]})."
        )
    if fitted.repeated:
        typer.echo(
            f"{len(fitted.repeated)} rows are equal to an earlier one in every cell (first: line "
            f"{fitted.repeated[0]}) and count once: noise does not repeat itself."
        )
