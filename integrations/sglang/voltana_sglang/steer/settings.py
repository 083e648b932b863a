"""What a user may set of the steering proxy: the table ``[steer]``."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from voltana.errors import invalid
from voltana.validation import Port, Positive  # noqa: TC001  (pydantic reads them)
from voltana_sglang.dialect.settings import SglangRouterTable


class SteerTable(SglangRouterTable):
    """The steering proxy: a router's table whose backends are the decode servers.

    Attributes:
        upstream: Where the official router listens.
        workers_period_s: How often it is asked for its list of workers.
        api_paths: Paths that clients may ask for beside those of the API that are known.
    """

    port: Port = Field(default=30001, description="the port to listen on (--port)")
    upstream: str = Field(
        default="http://127.0.0.1:30000",
        description="where the official router listens (--upstream)",
    )
    workers_period_s: Positive = Field(
        default=1.0, description="the seconds between two looks at the official router's workers"
    )

    api_paths: tuple[str, ...] = Field(
        default=(), description="a list of further paths that clients may ask for"
    )

    @field_validator("upstream")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise invalid("upstream", url, "an http or https URL", "Write http://HOST:PORT.")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _can_count(self) -> SteerTable:
        """It counts nothing, whatever names tenants; stands for the router's check."""
        for name in ("metrics_port", "tenant_header", "tenant_key", "tenants"):
            value = getattr(self, name)
            if value not in {None, ()}:
                raise invalid(
                    f"steer.{name}",
                    value,
                    "left out: the official router serves requests, and tells its own metrics",
                    "Scrape that one, or put voltana-sglang router in its place.",
                )
        return self

    @classmethod
    def needs_both_roles(cls) -> bool:
        """No: prefill servers are the official router's own business."""
        return False
