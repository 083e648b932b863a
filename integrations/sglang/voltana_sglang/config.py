"""The configuration file of a cluster of SGLang servers: voltana's tables, and SGLang's own."""

from __future__ import annotations

from voltana.serving.config import Config
from voltana_sglang.dialect.settings import SglangRouterTable
from voltana_sglang.steer.settings import SteerTable  # noqa: TC001  (pydantic reads it)


class SglangConfig(Config):
    """The whole file.

    Attributes:
        router: The router.
        steer: The proxy that steers the official router; None where there is none.
    """

    router: SglangRouterTable = SglangRouterTable()
    steer: SteerTable | None = None
