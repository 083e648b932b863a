"""`voltana plant`: ask the simulated boards one question at a time."""

import enum
import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Annotated

import typer

from voltana.cli.plant_fit import fit
from voltana.errors import invalid
from voltana.users_file import read_number

if TYPE_CHECKING:
    from voltana.plant import PlantModel
    from voltana.plant.hardware import HardwareProfile

app = typer.Typer(
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(fit)

Point = dict[str, float | int]


class PhaseName(enum.StrEnum):
    """The phases that can be asked about."""

    DECODE = "decode"
    PREFILL = "prefill"


@app.callback(invoke_without_command=True)
def plant(context: typer.Context) -> None:
    """Ask the simulated boards about latency and power."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list")
def list_profiles() -> None:
    """List the hardware and model profiles that ship with voltana."""
    from voltana.plant.hardware import load_hardware
    from voltana.plant.model import load_model
    from voltana.plant.profile_files import names

    typer.echo("hardware")
    for name in names("hardware"):
        board = load_hardware(name)
        typer.echo(
            f"  {name:<16} {board.memory_bytes / 2**30:.0f} GiB, {board.clocks.min_mhz:g}-"
            f"{board.clocks.max_mhz:g} MHz, {board.tdp_w:g} W"
        )
        for word, facts in board.knowledge:
            typer.echo("".join(f"    {word:<9} {fact}\n" for fact in facts), nl=False)
        typer.echo(f"    settling  {_settling(board)}")
    typer.echo("models")
    for name in names("model"):
        model = load_model(name)
        typer.echo(
            f"  {name:<16} {model.parameters / 1e9:.1f} G parameters, "
            f"{model.kv_bytes_per_token / 1024:.0f} KiB of KV cache a token, "
            f"TP {model.default_tensor_parallel} by default"
        )


def _settling(board: "HardwareProfile") -> str:
    """How long a change of clock takes to be in force, and where that comes from."""
    from voltana.plant.hardware_class import CLASSES

    words = f"{1e3 * board.clock_settle_s:.3g} ms after the call"
    if board.clocks.settle_s is not None:
        return f"{words} ({board.clocks.provenance.source})"
    return f"{words} ({board.architecture}; {CLASSES[board.architecture].source})"


_HARDWARE = typer.Option(help="Profile name ('voltana plant list'), or a TOML file of that form.")
_MODEL = typer.Option(help="Profile name, a TOML file, or a Hugging Face config.json.")
_TP = typer.Option(help="Boards of the instance (tensor parallel); default: the model's usual.")
_PHASE = typer.Option(
    help="decode: one token for each of --batch requests that have --context tokens in "
    "the KV cache. prefill: --batch prompts of --context tokens."
)
_BATCH = typer.Option(help="Requests; several: 1,8,64, or repeat the option.")
_CONTEXT = typer.Option(help="Tokens of each request; several as above.")
_CLOCK = typer.Option(
    help="SM clocks in MHz, several as above; or 'all', 'published', 'even:N', "
    "'above:MHZ', 'below:MHZ'. Default: the fastest."
)
_JSON = typer.Option("--json", help="Print JSON instead of a table.")


@app.command()
def show(
    *,
    hardware: Annotated[str, _HARDWARE] = "a100-sxm4-80gb",
    model: Annotated[str, _MODEL] = "llama-3.1-8b",
    tp: Annotated[int | None, _TP] = None,
    phase: Annotated[PhaseName, _PHASE] = PhaseName.DECODE,
    batch: Annotated[list[str] | None, _BATCH] = None,
    context: Annotated[list[str] | None, _CONTEXT] = None,
    clock: Annotated[list[str] | None, _CLOCK] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Show an iteration's latency, power and energy per token over a grid.

    Power is that of all boards of the instance. The real clock lies below the one asked for where
    the board's power limit lowers it. Energy per token counts generated tokens for decode, prompt
    tokens for prefill.

    \b
    Example: is 1005 MHz cheaper than 1410 MHz for a batch of 64?
      voltana plant show --hardware a100-sxm4-80gb --model llama-3.1-8b \\
          --phase decode --batch 64 --context 300 --clock 1005,1410
    """  # noqa: D301  (\b is typer's mark for a paragraph that must keep its lines)
    from voltana.plant import PlantModel, load_hardware, load_model

    board, profile = load_hardware(hardware), load_model(model)
    boards = profile.default_tensor_parallel if tp is None else tp
    plant_model = PlantModel(board, profile, boards)
    points = [
        _point(plant_model, phase, *asked)
        for asked in product(
            _counts("batch", batch, ["1", "8", "64"]),
            _counts("context", context, ["1024"]),
            _clocks(clock, board.clocks_mhz),
        )
    ]
    head = {
        "hardware": board.name,
        "model": profile.name,
        "tensor_parallel": boards,
        "phase": phase.value,
    }
    if as_json:
        known = board.knowledge.model_dump()
        typer.echo(json.dumps({**head, "knowledge": known, "points": points}, indent=2))
    else:
        _print_table(head, points)
        typer.echo(board.knowledge.caveat(board.name))


def _point(
    plant_model: "PlantModel", phase: PhaseName, batch: int, context: int, clock_mhz: float
) -> Point:
    from voltana.values import Load

    if phase is PhaseName.DECODE:
        load, tokens = Load.decode(batch, batch * context), batch
    else:
        load, tokens = Load.prefill([(context, 0)] * batch), batch * context
    latency_s, power_w, real_mhz = plant_model.iterate(load, clock_mhz)
    return {
        "batch_requests": batch,
        "context_tokens": context,
        "clock_mhz": clock_mhz,
        "real_clock_mhz": real_mhz,
        "latency_s": latency_s,
        "power_w": power_w,
        "power_per_board_w": power_w / plant_model.tensor_parallel,
        "energy_per_token_j": latency_s * power_w / tokens,
        "memory_fraction": _memory_fraction(plant_model, batch * context),
    }


def _memory_fraction(plant_model: "PlantModel", kv_tokens: int) -> float:
    """Weights and KV cache over the memory of all boards; above 1 they do not fit."""
    model, boards = plant_model.model, plant_model.tensor_parallel
    kv_bytes = model.kv_bytes_per_token * model.kv_copies(boards)
    needed_bytes = model.weight_bytes + kv_tokens * kv_bytes
    return needed_bytes / (boards * plant_model.hardware.memory_bytes)


_COLUMNS: tuple[tuple[str, Callable[[Point], str]], ...] = (
    ("batch", lambda point: f"{point['batch_requests']}"),
    ("context", lambda point: f"{point['context_tokens']}"),
    ("clock MHz", lambda point: f"{point['clock_mhz']:g}"),
    ("real MHz", lambda point: f"{point['real_clock_mhz']:.0f}"),
    ("latency ms", lambda point: f"{point['latency_s'] * 1e3:.2f}"),
    ("power W", lambda point: f"{point['power_w']:.0f}"),
    ("mJ/token", lambda point: f"{point['energy_per_token_j'] * 1e3:.1f}"),
)


def _print_table(head: dict[str, object], points: Sequence[Point]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = "{model} on {tensor_parallel} x {hardware}, {phase}".format(**head)
    table = Table(title=title, title_justify="left")
    for name, _ in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for point in points:
        table.add_row(*(text(point) for _, text in _COLUMNS))
    Console().print(table)
    excess = max(point["memory_fraction"] for point in points)
    if excess > 1:
        typer.echo(f"Does not fit: up to {excess:.2f} times the memory of the boards.")


def _split(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        yield from (part.strip() for part in text.split(",") if part.strip())


def _counts(field: str, given: list[str] | None, default: list[str]) -> list[int]:
    counts = []
    for text in _split(given or default):
        if not (text.isascii() and text.isdecimal() and int(text) >= 1):
            raise invalid(
                f"--{field}", text, "a whole number of at least 1", "Several: separate by commas."
            )
        counts.append(int(text))
    if not counts:
        raise invalid(f"--{field}", "", "at least one whole number", "Give one, such as 64.")
    return counts


def _clocks(given: list[str] | None, table_mhz: tuple[float, ...]) -> list[float]:
    """Clocks that the user asks for: any of the board's range, supported or passed through."""
    from voltana.levels import parse_levels

    clocks: list[float] = []
    for text in _split(given or [f"{table_mhz[-1]:g}"]):
        try:
            clock_mhz = read_number(text)
        except ValueError:
            clocks += parse_levels(text, read_device_mhz=_device_clocks).levels(table_mhz)
            continue
        if not (math.isfinite(clock_mhz) and table_mhz[0] <= clock_mhz <= table_mhz[-1]):
            raise invalid(
                "--clock",
                text,
                f"{table_mhz[0]:g}-{table_mhz[-1]:g} MHz",
                "'--clock all' shows every clock of the board.",
            )
        clocks.append(clock_mhz)
    return clocks or [table_mhz[-1]]


def _device_clocks(device: int) -> tuple[float, ...]:
    from voltana_actuatord.drivers.opening import gpu_clock_table

    return gpu_clock_table(device)
