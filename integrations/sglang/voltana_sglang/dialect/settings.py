"""What SGLang adds to the table ``[router]``: where decode servers fetch KV caches."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from voltana.serving.router.settings import BackendTable, RouterTable

DEFAULT_BOOTSTRAP_PORT = 8998
"""SGLang's own default."""


class SglangBackend(BackendTable):
    """One SGLang server.

    Attributes:
        bootstrap_host: Where decode servers reach a prefill server; None is the host of its URL.
        bootstrap_port: Likewise, the port.
    """

    bootstrap_host: str | None = Field(
        default=None, description="the host under which decode servers reach a prefill server"
    )
    bootstrap_port: Annotated[int, Field(ge=1, le=65535)] = Field(
        default=DEFAULT_BOOTSTRAP_PORT,
        description="the server's --disaggregation-bootstrap-port",
    )

    @property
    def transfer_host(self) -> str:
        """Where decode servers reach it, an IPv6 address in brackets."""
        host = self.bootstrap_host or urlsplit(self.url).hostname or ""
        return f"[{host}]" if ":" in host and not host.startswith("[") else host


class SglangRouterTable(RouterTable):
    """The router in front of SGLang servers.

    Attributes:
        backends: The servers (``[[router.backends]]``).
    """

    backends: tuple[SglangBackend, ...] = Field(
        default=(), description="a list of tables [[router.backends]]"
    )
