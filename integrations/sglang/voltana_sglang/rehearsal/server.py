"""``python -m voltana_sglang.rehearsal.server``: a virtual ``sglang.launch_server``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

from aiohttp import web

from voltana.errors import ConfigError, VoltanaError, invalid
from voltana.rehearsal.engine import Engine, EngineSettings
from voltana.rehearsal.machine import uuid_of
from voltana.serving.event_loop import PacedLoop
from voltana_actuatord.timebase import time_factor
from voltana_ring.hooks.facts import EngineFacts
from voltana_ring.hooks.settings import check_name, read_settings
from voltana_ring.paths import bell_path, make_folder, ring_path
from voltana_ring.writer import RingWriter
from voltana_sglang import CONFIG_VARIABLE, INSTANCE_VARIABLE
from voltana_sglang.rehearsal.arguments import VERSION, parser
from voltana_sglang.rehearsal.pages import Pages
from voltana_sglang.rehearsal.serving import Decode, Prefill

if TYPE_CHECKING:
    from argparse import Namespace


def main() -> None:
    """Serve until SIGTERM."""
    arguments, _ = parser().parse_known_args()
    try:
        with asyncio.Runner(loop_factory=lambda: PacedLoop(time_factor())) as runner:
            runner.run(serve(arguments))
    except VoltanaError as error:
        sys.stderr.write(f"virtual engine: {error}\n")
        sys.exit(2)


async def serve(arguments: Namespace) -> None:
    """Serve until SIGTERM.

    Raises:
        VoltanaError: If this is no part of a rehearsal, or a port cannot be had.
    """
    if arguments.disaggregation_mode not in {"prefill", "decode"}:
        raise invalid(
            "--disaggregation-mode",
            arguments.disaggregation_mode,
            "prefill or decode",
            "The plant knows pairs alone: set launch.prefill and launch.decode.",
        )
    settings, name = EngineSettings.read(), check_name(os.environ[INSTANCE_VARIABLE])
    loop = asyncio.get_running_loop()
    engine = Engine(settings, name, loop)
    ring = _ring(arguments, settings, name, engine)
    role = (
        Prefill(engine, ring)
        if arguments.disaggregation_mode == "prefill"
        else Decode(engine, ring, arguments.stream_interval)
    )
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    runner = web.AppRunner(
        Pages(arguments, role, engine.cluster.limits).app(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=1.0,
    )
    try:
        await _listen(runner, role, arguments)
        await ended.wait()
    finally:
        await runner.cleanup()
        if isinstance(role, Decode):
            await role.corridor.close()
        else:
            role.door.close()
        engine.close()
        role.observer.close()


async def _listen(runner: web.AppRunner, role: Prefill | Decode, arguments: Namespace) -> None:
    await runner.setup()
    try:
        if isinstance(role, Prefill):
            await role.door.open(arguments.host, arguments.disaggregation_bootstrap_port)
        await web.TCPSite(runner, arguments.host, arguments.port, backlog=1024).start()
    except OSError as error:
        raise ConfigError(
            f"the virtual engine cannot listen on {arguments.host}:{arguments.port}: "
            f"{error.strerror or error}. Choose another launch.first_port."
        ) from None


def _ring(arguments: Namespace, settings: EngineSettings, name: str, engine: Engine) -> RingWriter:
    from pathlib import Path  # noqa: PLC0415  (as in the plugin, which reads the same file)

    rings = read_settings(Path(os.environ[CONFIG_VARIABLE])).rings
    make_folder(rings)
    facts = _facts(arguments, settings, name, engine)
    path = ring_path(rings, name, facts.ring_suffix)
    return RingWriter(path, bell_path(rings, name), facts.to_dict())


def _facts(
    arguments: Namespace, settings: EngineSettings, name: str, engine: Engine
) -> EngineFacts:
    limits, role = engine.cluster.limits, arguments.disaggregation_mode
    return EngineFacts(
        engine="sglang",
        version=VERSION,
        role=role,
        model=arguments.model_path,
        port=arguments.port,
        tp_size=settings.tensor_parallel,
        pp_size=1,
        dp_size=1,
        tp_rank=0,
        attn_tp_rank=0,
        dp_rank=0,
        pp_rank=0,
        gpu=0,
        gpu_uuids=tuple(map(uuid_of, settings.gpus[name])),
        device="cuda",
        speculative=False,
        kv_capacity_tokens=int(limits.kv_capacity_tokens),
        kv_reserved_tokens=0 if role == "prefill" else int(limits.kv_reserved_tokens),
        page_size=1,
        max_running_requests=limits.max_running_requests,
        max_prefill_tokens=limits.max_batch_tokens,
        names_waiting=role == "prefill",
    )


if __name__ == "__main__":
    main()
