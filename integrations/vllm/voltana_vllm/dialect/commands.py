"""What `voltana.serving`'s commands need in order to speak vLLM's dialect."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from voltana.serving.dialect import Dialect
from voltana_vllm.config import VllmConfig
from voltana_vllm.dialect.settings import VllmRouterTable
from voltana_vllm.launch_plan import VllmServers

if TYPE_CHECKING:
    from voltana.ports import TimeSource
    from voltana.serving.profile.run import ProfiledServer
    from voltana.serving.router.service import RouterService
    from voltana.serving.router.settings import RouterTable


def vllm_dialect() -> Dialect:
    """VLLM's."""
    return Dialect(
        engine="vllm",
        config=VllmConfig,
        router=VllmRouterTable,
        make_router=make_router,
        profiled=profiled,
        servers=VllmServers(),
    )


def make_router(settings: RouterTable, time: TimeSource) -> RouterService:
    """A router in front of vLLM servers; keys may come from the environment.

    Args:
        settings: A `VllmRouterTable`.
        time: Time source.
    """
    # Here, so that agents do without an HTTP client.
    from voltana.serving.router.service import make_service  # noqa: PLC0415
    from voltana_vllm.dialect.engine import VllmEngine  # noqa: PLC0415
    from voltana_vllm.dialect.keys import KEY_NAMES  # noqa: PLC0415

    if not isinstance(settings, VllmRouterTable):
        raise TypeError(f"settings is a {type(settings).__name__}: must be a VllmRouterTable")
    return make_service(settings, time, VllmEngine(settings), key_names=KEY_NAMES)


def profiled(url: str, seed: int, settings: RouterTable) -> ProfiledServer:
    """A live vLLM server, to be calibrated.

    Args:
        url: Where it listens.
        seed: Of the prompts.
        settings: Where its key is.
    """
    from voltana.serving.router.keys import find_keys  # noqa: PLC0415
    from voltana_vllm.dialect.keys import KEY_NAMES  # noqa: PLC0415
    from voltana_vllm.dialect.profiled_server import VllmServer  # noqa: PLC0415

    return VllmServer(url, seed, find_keys(settings, os.environ, KEY_NAMES))
