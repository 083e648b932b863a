"""The agent's control endpoint: what it does, and what may be changed while it does.

It listens on loopback alone, changes things by PUT alone, and answers as
`voltana.serving.admin.guard` says: figures to whoever asks under a loopback name, everything else
to those who have the token. A policy that is chosen here must be a named one, or one that the
configuration file names: what comes over a socket must not choose what is imported. Every value is
bounded where it is read.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from aiohttp import web
from pydantic import Field, ValidationError

from voltana.errors import ConfigError, VoltanaError, invalid, unknown_name
from voltana.levels import parse_levels
from voltana.policies import policy_names
from voltana.policies.named import get_policy
from voltana.policy import is_users_own
from voltana.serving.admin.door import Door, make_runner
from voltana.serving.admin.guard import guard
from voltana.serving.agent.metrics import render
from voltana.slo import Slo
from voltana.validation import Share, StrictTable, explain
from voltana.values import Limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from voltana.serving.admin.token import Token
    from voltana.serving.agent.service import Agent

MAX_BODY_BYTES = 65536

LIMIT_SOURCE = "control endpoint"

MOST_LIMIT_S = 7 * 86400.0
"""Longer limits belong into the configuration (policy.levels)."""

_NO_CAP_MHZ = 1e5
_Milliseconds = Annotated[float, Field(gt=0, le=3.6e6)]
_Megahertz = Annotated[float, Field(gt=0, le=_NO_CAP_MHZ)]
_Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[ -~]+$")]

_BodyT = TypeVar("_BodyT", bound=StrictTable)


class SloBody(StrictTable):
    """PUT /slo; what is left out stays."""

    ttft_ms: _Milliseconds | None = None
    itl_ms: _Milliseconds | None = None
    ttft_target: Share | None = None
    itl_target: Share | None = None


class PolicyBody(StrictTable):
    """PUT /policy."""

    controller: _Name = Field(description="the name of a policy, or one of the configuration file")


class LevelsBody(StrictTable):
    """PUT /levels; null leaves them to the policy."""

    levels: _Name | None = Field(description="the clocks that may be chosen, such as 'above:900'")


class DryRunBody(StrictTable):
    """PUT /dry-run."""

    dry_run: bool = Field(description="whether to leave the devices alone")


class LimitBody(StrictTable):
    """PUT /limit: a range of clocks for a while; the cap wins where it contradicts the floor."""

    min_mhz: _Megahertz = Field(default=1e-6, description="the lowest permitted clock in MHz")
    max_mhz: _Megahertz = Field(
        default=_NO_CAP_MHZ, description="the highest permitted clock in MHz"
    )
    seconds: Annotated[float, Field(gt=0, le=MOST_LIMIT_S)] = Field(
        description="the time for which it holds"
    )
    source: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")] = Field(
        default=LIMIT_SOURCE, description="who imposes it"
    )


class ControlServer:
    """Serves the endpoint of one agent.

    Args:
        agent: The agent.
        token: What opens it; None where none can be kept, so that figures alone are told.
    """

    def __init__(self, agent: Agent, token: Token | None) -> None:
        self._agent = agent
        self._token = token
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, which differs from `port` if that is 0.

        Raises:
            OSError: If the port is taken.
        """
        checked = guard(self._token, host=host)
        app = web.Application(middlewares=[checked], client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/health", self._health)
        app.router.add_get("/status", self._status)
        app.router.add_get("/metrics", self._metrics)
        for name, read, change in (
            ("slo", self._read_slo, self._change_slo),
            ("policy", self._read_policy, self._change_policy),
            ("levels", self._read_levels, self._change_levels),
            ("dry-run", self._read_dry_run, self._change_dry_run),
        ):
            app.router.add_get(f"/{name}", _reads(read))
            app.router.add_put(f"/{name}", _changes(change, read))
        app.router.add_put("/limit", _changes(self._change_limit, dict))
        self._runner = make_runner(app)
        await self._runner.setup()
        self._door = Door(self._runner)
        return await self._door.open(host, port)

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._door.close()
            await self._runner.cleanup()

    async def _health(self, _request: web.Request) -> web.Response:
        status = 200 if self._agent.group.attached else 503
        return _answer({"health": self._agent.health()}, status=status)

    async def _status(self, _request: web.Request) -> web.Response:
        return _answer(self._agent.status())

    async def _metrics(self, _request: web.Request) -> web.Response:
        body, kind = render(self._agent.status())
        return web.Response(body=body, headers={"Content-Type": kind})

    def _read_slo(self) -> dict[str, Any]:
        slo = self._agent.group.settings.slo
        return {
            "ttft_ms": slo.ttft_s * 1e3,
            "itl_ms": slo.itl_s * 1e3,
            "ttft_target": slo.ttft_target,
            "itl_target": slo.itl_target,
        }

    def _change_slo(self, values: Any) -> None:
        body = _parse(SloBody, values)
        merged = self._read_slo() | body.model_dump(exclude_none=True)
        self._agent.group.set_slo(
            Slo(
                ttft_s=merged["ttft_ms"] / 1e3,
                itl_s=merged["itl_ms"] / 1e3,
                ttft_target=merged["ttft_target"],
                itl_target=merged["itl_target"],
                spending=self._agent.group.settings.slo.spending,
            )
        )

    def _read_policy(self) -> dict[str, Any]:
        return {"controller": self._agent.group.settings.policy}

    def _change_policy(self, values: Any) -> None:
        wanted = _parse(PolicyBody, values).controller
        configured = self._agent.config.policy.controller
        if is_users_own(wanted) and wanted != configured:
            raise unknown_name("policy", wanted, [*policy_names(), configured])
        if not is_users_own(wanted):
            get_policy(wanted)
        self._agent.group.set_policy(wanted)

    def _read_levels(self) -> dict[str, Any]:
        group = self._agent.group
        return {"levels": group.settings.levels, "levels_mhz": list(group.levels_mhz())}

    def _change_levels(self, values: Any) -> None:
        wanted = _parse(LevelsBody, values).levels
        if wanted is not None:  # checked without an engine, too: the next one would fail by them
            table = self._agent.actuator.table()
            parse_levels(wanted, read_device_mhz=lambda _device: table).levels(table)
        self._agent.group.set_levels(wanted)

    def _read_dry_run(self) -> dict[str, Any]:
        return {"dry_run": self._agent.actuator.dry_run}

    def _change_dry_run(self, values: Any) -> None:
        wanted = _parse(DryRunBody, values).dry_run
        if not wanted and self._agent.config.actuator.kind == "dry-run":
            raise invalid(
                "dry_run",
                wanted,
                "true while actuator.kind is 'dry-run'",
                "Name what sets clocks in the configuration, and restart the agent.",
            )
        self._agent.actuator.set_dry_run(dry_run=wanted)

    def _change_limit(self, values: Any) -> None:
        body = _parse(LimitBody, values)
        self._agent.group.set_limit(
            Limit(
                source=body.source,
                min_mhz=body.min_mhz,
                max_mhz=body.max_mhz if body.max_mhz < _NO_CAP_MHZ else math.inf,
                expires_at_s=self._agent.now_s() + body.seconds,
            )
        )


def read_body(raw: bytes) -> Any:
    """The values of a body.

    Raises:
        ValueError: If it is no JSON, or has numbers that JSON has not.
    """
    try:
        return json.loads(raw, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _parse(kind: type[_BodyT], values: Any) -> _BodyT:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise explain(error, kind) from None


def _reads(read: Callable[[], dict[str, Any]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_request: web.Request) -> web.Response:
        return _answer(read())

    return handle


def _changes(
    change: Callable[[Any], None], read: Callable[[], dict[str, Any]]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        try:
            values = read_body(await request.read())
        except ValueError as error:
            return _answer({"error": f"the body is not JSON: {error}"}, status=400)
        try:
            change(values)
        except ConfigError as error:
            return _answer({"error": str(error)}, status=422)
        except VoltanaError as error:
            return _answer({"error": str(error)}, status=503)
        return _answer(read())

    return handle


def _answer(values: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(values, status=status)
