"""The configuration file of a cluster of vLLM servers: voltana's tables, and its router's."""

from __future__ import annotations

from voltana.serving.config import Config
from voltana_vllm.dialect.settings import VllmRouterTable


class VllmConfig(Config):
    """The whole file.

    Attributes:
        router: The router.
    """

    PAGE = "docs/vllm.md"

    router: VllmRouterTable = VllmRouterTable()
