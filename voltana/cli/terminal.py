"""What commands say on the terminal beside their results: progress and logs, on standard error."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from voltana.errors import invalid

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
