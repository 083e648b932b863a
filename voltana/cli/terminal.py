"""What commands share in what they say and write: tables, files, progress and logs."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.errors import ConfigError, invalid

if TYPE_CHECKING:
    from rich.console import Console

STDOUT = "-"
TABLE_WIDTH = 110
"""Columns of a table where there is no terminal to ask."""

KEPT_AS_JSON = ("series.json", "sweep.json")
"""What runs and sweeps keep in their folders beside what `--json` writes."""

LOG_LEVELS = ("debug", "info", "warning", "error")


def configure_logs(level: str) -> None:
    """Send structured logs of `level` and above to standard error.

    Raises:
        ConfigError: If there is no such level.
    """
    import structlog

    if level not in LOG_LEVELS:
        raise invalid(
            "log level", level, f"one of {', '.join(LOG_LEVELS)}", "'debug' shows every decision."
        )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@contextmanager
def progress_bars(total: int, *, shown: bool) -> Iterator[Callable[[str, float, int], None] | None]:
    """One bar a policy on standard error, if that is a terminal.

    Args:
        total: Requests of each run.
        shown: Whether bars are wanted at all.

    Yields:
        What to call with policy, simulated seconds and finished requests; None without a terminal.
    """
    if not (shown and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[simulated]:7.1f} s simulated"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, int] = {}

        def update(policy: str, simulated_s: float, finished: int) -> None:
            if policy not in tasks:
                tasks[policy] = progress.add_task(policy, total=total, simulated=0.0)
            progress.update(tasks[policy], completed=finished, simulated=simulated_s)  # type: ignore[arg-type]

        yield update


def table_console() -> "Console":
    """Where tables are printed; a reader that goes away raises BrokenPipeError, as of any print."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704  (rich calls this while it handles the BrokenPipeError)

    console = Piped()
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    return console


def prepare_outputs(out: Path | None, json: str | None) -> None:
    """Find out before the work, not after it, whether its results can be written.

    Raises:
        ConfigError: If they cannot, or one would be written over another.
    """
    folders = [] if out is None else [out]
    if json is not None and json != STDOUT:
        folders.append(Path(json).parent)
        if Path(json).is_dir():
            raise ConfigError(
                f"{json!r} cannot be written: it is a directory. Name a file, or '-'."
            )
        if out is not None:
            _check_beside(out, Path(json))
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"folder {str(folder)!r} cannot be made: {reason}. Name another one."
            ) from None
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"folder {str(folder)!r} is not yours to write. Name another one.")


def _check_beside(out: Path, json: Path) -> None:
    """Refuse a place for JSON at which the command keeps something else of its own."""
    folder, file = out.resolve(), json.resolve()
    if not file.is_relative_to(folder):
        return
    if file.parent != folder or file.suffix != ".json" or file.name in KEPT_AS_JSON:
        raise invalid(
            "--json",
            str(json),
            f"elsewhere, or a name in {str(out)!r} that ends in .json and is not "
            f"{' or '.join(KEPT_AS_JSON)}",
            "Other names may be files of the run.",
        )


def write_json(content: object, where: str) -> None:
    """Write a result for machines into a file, or to standard output if that is `STDOUT`."""
    import json

    text = json.dumps(content, indent=1, allow_nan=False, default=list)
    if where == STDOUT:
        sys.stdout.write(text + "\n")
    else:
        write_text(Path(where), text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a result, whole or not at all; a path that cannot be written is the user's error."""
    from voltana.whole_file import write_whole

    write_whole(path, text.encode("utf-8"))
