"""The command ``agent``: runs the agent of one instance."""

from __future__ import annotations

import logging
from pathlib import Path  # noqa: TC003  (typer reads the annotations at run time)
from typing import Annotated, Literal

import typer

Role = Literal["prefill", "decode", "unified"]


def agent(  # noqa: PLR0917  (options, not arguments)
    context: typer.Context,
    instance: Annotated[str, typer.Option(help="Name of the instance, as the engine has it.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The configuration (TOML).")
    ] = None,
    role: Annotated[Role | None, typer.Option(help="Default: what the engine says.")] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            help="GPUs that the engine does not report: UUIDs, or own indices such as 0,1."
        ),
    ] = None,
    control_port: Annotated[
        int | None,
        typer.Option(help="Port of the control endpoint; default: the file's, else a free one."),
    ] = None,
    feed_port: Annotated[
        int | None, typer.Option(help="Port of the feed to routers, likewise.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="The scrape port; default: the file's, else figures at --control-port."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Watch and decide, but leave the clocks alone.")
    ] = False,
    until_engine_ends: Annotated[
        bool, typer.Option("--until-engine-ends", help="End with the engine that runs now.")
    ] = False,
) -> None:
    """Control the clock of one server, learning from its iterations.

    It waits for the server if that is not there yet, and for the next one after it has ended.
    """
    from voltana.serving.agent.service import AgentOptions, run_agent  # noqa: PLC0415
    from voltana.serving.config import read_config  # noqa: PLC0415
    from voltana.serving.dialect import dialect_of  # noqa: PLC0415
    from voltana_actuatord.gpu_names import parse_gpus  # noqa: PLC0415

    settings = read_config(config, dialect_of(context).config)
    table = settings.instance_named(instance)
    log_to_stderr(settings.agent.log)
    options = AgentOptions(
        instance=table.name,
        role=role or table.role,
        gpus=table.gpus if gpus is None else parse_gpus(gpus),
        control_port=_port(control_port, table.control_port, settings.agent.control_port),
        feed_port=_port(feed_port, table.feed_port, settings.agent.feed_port),
        dry_run=dry_run,
        metrics_port=next(
            (
                port
                for port in (metrics_port, table.metrics_port, settings.agent.metrics_port)
                if port is not None
            ),
            None,
        ),
        until_engine_ends=until_engine_ends,
    )
    run_agent(settings, options)


def log_to_stderr(level: str) -> None:
    """Write log events as lines with key=value pairs to stderr."""
    import structlog  # noqa: PLC0415

    from voltana.serving.log_file import log_file  # noqa: PLC0415

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(log_file()),
    )


def _port(*choices: int | None) -> int:
    """The first that was given."""
    return next((port for port in choices if port is not None), 0)
