"""What `voltana.serving`'s commands need in order to speak SGLang's dialect."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from voltana.serving.dialect import Dialect
from voltana_sglang.config import SglangConfig
from voltana_sglang.dialect.settings import SglangRouterTable
from voltana_sglang.launch_plan import SglangServers

if TYPE_CHECKING:
    from voltana.ports import TimeSource
    from voltana.serving.profile.run import ProfiledServer
    from voltana.serving.router.service import RouterService
    from voltana.serving.router.settings import RouterTable


def sglang_dialect() -> Dialect:
    """SGLang's."""
    return Dialect(
        engine="sglang",
        config=SglangConfig,
        router=SglangRouterTable,
        prefill_port="bootstrap_port",
        make_router=make_router,
        profiled=profiled,
        servers=SglangServers(),
    )


def make_router(settings: RouterTable, time: TimeSource) -> RouterService:
    """A router in front of SGLang servers; keys may come from the environment.

    Args:
        settings: A `SglangRouterTable`.
        time: Time source.
    """
    # Here, so that agents do without an HTTP client.
    from voltana.serving.router.service import make_service  # noqa: PLC0415
    from voltana_sglang.dialect.engine import SglangEngine  # noqa: PLC0415
    from voltana_sglang.dialect.keys import KEY_NAMES  # noqa: PLC0415
    from voltana_sglang.dialect.pages import PAGES  # noqa: PLC0415

    if not isinstance(settings, SglangRouterTable):
        raise TypeError(f"settings is a {type(settings).__name__}: must be a SglangRouterTable")
    return make_service(settings, time, SglangEngine(settings), key_names=KEY_NAMES, pages=PAGES)


def profiled(url: str, seed: int, settings: RouterTable) -> ProfiledServer:
    """A live SGLang server, to be calibrated.

    Args:
        url: Where it listens.
        seed: Of the prompts.
        settings: Where its keys are.
    """
    from voltana.serving.router.keys import find_keys  # noqa: PLC0415
    from voltana_sglang.dialect.keys import KEY_NAMES  # noqa: PLC0415
    from voltana_sglang.dialect.profiled_server import SglangServer  # noqa: PLC0415

    return SglangServer(url, seed, find_keys(settings, os.environ, KEY_NAMES))
