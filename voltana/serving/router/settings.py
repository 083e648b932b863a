"""What a user may set of the router: the table ``[router]`` of the configuration file."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003  (pydantic reads it)
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from voltana.errors import invalid
from voltana.serving.router.limits import LimitsTable
from voltana.serving.router.tenants import LONGEST, MOST
from voltana.validation import Count, NotNegative, Port, Positive, StrictTable

BackendRole = Literal["prefill", "decode", "unified"]

_FEED = re.compile(r"tcp://[^\s/]+:\d{1,5}|(ipc|inproc)://\S+")
_MOST_PORT = 65535
_Port = Annotated[int, Field(ge=1, le=_MOST_PORT)]

TenantName = Annotated[str, Field(min_length=1, max_length=LONGEST, pattern=r"^[ -~]+$")]
SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "api-key", "x-api-key", "x-auth-token"}
)

ADMIN_OFFSET = 900
"""From the public port to that of the administration, where none is named."""

SECRET_FILES = ("api_key_file", "admin_api_key_file", "admin_token_file", "feed_key_file")
"""Settings that name a file with a secret, relative to the configuration file."""


class BackendTable(StrictTable):
    """One server; an engine adds what it needs to know of it.

    Attributes:
        name: Unique; the instance's name in the agent's configuration.
        role: What it was started as.
        url: Where it listens, such as ``http://10.0.0.1:30000``.
        feed: ZMQ address at which its agent publishes; None polls the server itself.
    """

    name: str = Field(min_length=1, description="the name of a backend")
    role: BackendRole = Field(description="what the server was started as")
    url: str = Field(description="where the server listens, such as http://10.0.0.1:30000")
    feed: str | None = Field(
        default=None, description="the address at which its agent publishes, tcp:// or ipc://"
    )

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
            _ = parts.port
        except ValueError:
            usable = False
        if not usable:
            raise invalid("url", url, "an http or https URL", "Write http://HOST:PORT.")
        return url.rstrip("/")

    @field_validator("feed")
    @classmethod
    def _is_an_address(cls, feed: str | None) -> str | None:
        if feed is not None and not _FEED.fullmatch(feed):
            raise invalid(
                "feed", feed, "tcp://HOST:PORT or ipc://PATH", "Write what the agent's log says."
            )
        return feed


class RouterTable(StrictTable):
    """The router; every time is in seconds.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        backends: The servers (``[[router.backends]]``).
        policy: Policy whose routers are used: a name that ``voltana policies`` lists, or
            ``MODULE:FACTORY``.
        prefill_router: Another router for the prefill leg: a name or ``MODULE:FACTORY``.
        decode_router: Likewise for the decode leg; it also chooses among unified servers.
        seed: For routers that randomise.
        snapshot_modules: Modules of users' own predictor snapshots that agents may send, beside
            those that the policy and the routers name.
        max_in_flight: Requests beyond this are refused with 429 and ``Retry-After``.
        timeout_s: A request that is not complete by then ends with an error.
        first_token_timeout_s: An attempt that produced nothing by then is given up and repeated
            elsewhere.
        attempts: Tries of a request before its first token.
        stale_after_s: Reports older than this are not planned on.
        loads_period_s: How often a server is asked for its load where no fresh feed is; 0 never.
        health_period_s: Time between two active health checks of a server.
        health_timeout_s: A check that takes longer has failed.
        health_path: What is asked for.
        eject_after: Failures in a row after which a server gets no requests.
        eject_s: How long, the first time; it doubles up to `eject_max_s`.
        eject_max_s: Longest ejection.
        drain_timeout_s: Time that open requests get at shutdown.
        max_body_mb: Larger requests are refused, by their unpacked size too.
        limits: Everything else that clients may not exceed (``[router.limits]``).
        api_key: Key of the servers for the router's own questions (loads, aborts). Requests carry
            their client's key, never this one. Better in a file, or in the environment.
        api_key_file: File that holds it, relative to the configuration file.
        feed_key_file: File with the key that agents and routers share; feeds that come from other
            hosts need one.
        feed_open: Whether feeds of other hosts are followed without a key.
        admin_host: Address of the administration's own listener (drain, flush, status, metrics).
        admin_port: Its port; None is 900 above `port`, and a free one where `port` is 0.
        admin_names: Names, beside IP addresses and ``localhost``, under which it may be asked.
        admin_token_file: File with the token of the administration; None makes one for this user.
        metrics_host: Address of the scrape port, which has figures and nothing else.
        metrics_port: The scrape port; None has figures on the administration's listener alone.
        metrics_names: Names, beside IP addresses and this host's own, under which it may be asked.
        tenant_header: Header of requests that says who they are counted for.
        tenant_key: Field of their bodies that does.
        tenants: Names that are told apart from the start, where one of those two is set; beside
            them the first that come, up to a hundred together.
        admin_api_key: Key for aborts, where the servers have one of an administrator; likewise.
        admin_api_key_file: File that holds it.
    """

    host: str = Field(default="127.0.0.1", description="the address to listen on (--host)")
    port: Port = Field(default=30000, description="the port to listen on (--port)")
    backends: tuple[BackendTable, ...] = Field(
        default=(), description="a list of tables [[router.backends]]"
    )
    policy: str = Field(
        default="voltana", description="the policy whose routers are used (--policy)"
    )
    prefill_router: str | None = Field(
        default=None, description="the router of the prefill leg (--prefill-router)"
    )
    decode_router: str | None = Field(
        default=None, description="the router of the decode leg (--decode-router)"
    )
    seed: int = Field(default=0, description="the seed of routers that randomise")
    snapshot_modules: tuple[str, ...] = Field(
        default=(), description="a list of modules whose predictor snapshots are accepted"
    )
    max_in_flight: Count = Field(
        default=2048, description="the number of requests that may be open (--max-in-flight)"
    )
    timeout_s: Positive = Field(
        default=600.0, description="the time in seconds that a request may take (--timeout)"
    )
    first_token_timeout_s: Positive = Field(
        default=300.0, description="the time in seconds that an attempt may take to begin"
    )
    attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        default=3, description="how often a request is tried before its first token"
    )
    stale_after_s: Positive = Field(
        default=0.1, description="the age in seconds from which a report is not used"
    )
    loads_period_s: NotNegative = Field(
        default=0.05, description="the seconds between two polls of the loads; 0 never polls"
    )
    health_period_s: Positive = Field(
        default=5.0, description="the seconds between two health checks of a server"
    )
    health_timeout_s: Positive = Field(
        default=10.0, description="the seconds that a health check may take"
    )
    health_path: str = Field(default="/health", description="the path of the health check")
    eject_after: Count = Field(default=3, description="the failures in a row that eject a server")
    eject_s: Positive = Field(default=1.0, description="the seconds of a first ejection")
    eject_max_s: Positive = Field(default=30.0, description="the longest ejection in seconds")
    drain_timeout_s: Positive = Field(
        default=30.0, description="the seconds that open requests get at shutdown"
    )
    max_body_mb: Positive = Field(default=64.0, description="the largest request in megabytes")
    limits: LimitsTable = Field(
        default_factory=LimitsTable, description="a table [router.limits] of limits for clients"
    )
    api_key: str | None = Field(
        default=None, repr=False, description="the API key that the servers were started with"
    )
    api_key_file: Path | None = Field(default=None, description="a file with the servers' API key")
    feed_key_file: Path | None = Field(
        default=None, description="a file with the key that agents and routers share"
    )
    feed_open: bool = Field(
        default=False, description="whether feeds of other hosts are followed without a key"
    )
    admin_host: str = Field(default="127.0.0.1", description="the address of the administration")
    admin_port: Port | None = Field(default=None, description="the port of the administration")
    admin_names: tuple[str, ...] = Field(
        default=(), description="a list of names under which the administration may be asked"
    )
    admin_token_file: Path | None = Field(
        default=None, description="a file with the token of the administration"
    )
    metrics_host: str = Field(default="127.0.0.1", description="the address of the scrape port")
    metrics_port: Port | None = Field(default=None, description="the scrape port")
    metrics_names: tuple[str, ...] = Field(
        default=(), description="a list of names under which figures may be asked for"
    )
    tenant_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] | None = Field(
        default=None, description="the header that says who a request is counted for"
    )
    tenant_key: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="the field of a body that says who a request is counted for"
    )
    tenants: Annotated[tuple[TenantName, ...], Field(max_length=MOST)] = Field(
        default=(), description=f"a list of at most {MOST} names"
    )
    admin_api_key: str | None = Field(
        default=None, repr=False, description="the admin API key of the servers"
    )
    admin_api_key_file: Path | None = Field(
        default=None, description="a file with the servers' admin API key"
    )

    @field_validator("api_key", "admin_api_key", mode="before")
    @classmethod
    def _is_a_key(cls, key: object, info: ValidationInfo) -> object:
        if key is not None and not (isinstance(key, str) and key and key.isprintable()):
            raise invalid(  # a key, even one of the wrong type, is not to be shown
                str(info.field_name), "(not shown)", "text of one line", "Put it into quotes."
            )
        return key

    @field_validator("tenant_header")
    @classmethod
    def _is_no_secret(cls, header: str | None) -> str | None:
        if header is not None and header.lower() in SECRET_HEADERS:
            raise invalid(
                "tenant_header",
                header,
                "a header that holds no secret, for its values become labels of metrics",
                "Have what authenticates clients set a header of its own, such as X-Tenant.",
            )
        return header

    @model_validator(mode="after")
    def _can_count(self) -> RouterTable:
        """Tenants are named by one thing."""
        if self.tenant_header is not None and self.tenant_key is not None:
            raise invalid(
                "tenant_key", self.tenant_key, "left out beside tenant_header", "Keep one."
            )
        if self.tenants and self.tenant_header is None and self.tenant_key is None:
            raise invalid(
                "tenants",
                list(self.tenants),
                "left out without tenant_header and tenant_key, for no request names anybody then",
                'Say where requests do: tenant_header = "X-Tenant", or tenant_key = "user".',
            )
        return self

    @model_validator(mode="after")
    def _has_one_source_of_a_key(self) -> RouterTable:
        for name in ("api_key", "admin_api_key"):
            path = getattr(self, f"{name}_file")
            if getattr(self, name) is not None and path is not None:
                raise invalid(f"{name}_file", str(path), f"left out beside {name}", "Keep one.")
        return self

    @model_validator(mode="after")
    def _is_a_cluster(self) -> RouterTable:
        names = [backend.name for backend in self.backends]
        for name in names:
            if names.count(name) > 1:
                raise invalid("backends.name", name, "unique", "Give each backend its own name.")
        roles = {backend.role for backend in self.backends}
        if "unified" in roles and len(roles) > 1:
            raise invalid(
                "backends",
                sorted(roles),
                "prefill and decode servers, or unified ones",
                "Run one router for each kind.",
            )
        if len(roles & {"prefill", "decode"}) == 1 and self.needs_both_roles():
            missing = "decode" if "prefill" in roles else "prefill"
            raise invalid(
                "backends",
                sorted(roles),
                "prefill and decode servers, or unified ones",
                f"Add a {missing} server: neither serves a request alone.",
            )
        return self

    def administration_port(self) -> int:
        """The port of the administration, as it follows from the public one; 0 takes a free one."""
        if self.admin_port is not None or self.port == 0:
            return self.admin_port or 0
        above = self.port + ADMIN_OFFSET
        return above if above <= _MOST_PORT else self.port - ADMIN_OFFSET

    @classmethod
    def needs_both_roles(cls) -> bool:
        """Whether prefill servers need decode servers and the other way round."""
        return True
