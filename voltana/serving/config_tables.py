"""The tables of the configuration file that are not those of router and launch.

Every table has defaults, so that an empty file is a valid dry run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from voltana.errors import invalid
from voltana.validation import Count, Port, Positive, StrictTable, WholeNotNegative
from voltana_actuatord.gpu_names import parse_gpus
from voltana_ring.paths import ALLOWED_NAME, INSTANCE_NAME, default_rings, default_state

Role = Literal["prefill", "decode", "unified"]

DEFAULT_SOCKET = "/run/voltana/actuator.sock"

ENDPOINT = re.compile(r"ipc:///[^\s\0]{1,99}|tcp://(?:\[[0-9A-Fa-f:]+\]|[\w.-]+):[0-9]{1,5}")
"""Addresses of ZMQ that can be connected to."""

MOST_RANKS = 64
"""Data-parallel ranks of an instance."""


def _gpus(value: object) -> object:
    """GPUs as a command line has them: UUIDs, and indices of whoever reads the file."""
    if isinstance(value, (list, tuple)) and not any(isinstance(name, bool) for name in value):
        return parse_gpus(",".join(map(str, value)))
    return value


class EngineTable(StrictTable):
    """What is served on what, for a physical prior; without it the agent learns from nothing.

    Attributes:
        hardware: Name of a hardware profile of voltana, or a file.
        model: Name of a model profile, or a file, a Hugging Face ``config.json`` among them.
        tensor_parallel: GPUs of one instance.
        table_mhz: Clocks of the device, where none can be asked (``actuator.kind = "simulated"``).
        max_power_w: Power limit of all GPUs of an instance.
        kv_capacity_tokens: Tokens that the KV cache of an instance holds, where its engine does
            not say.
        kv_reserved_tokens: Tokens that the engine keeps free in it for each request, likewise.
        max_batch_tokens: Prompt tokens that it computes at once, likewise.
        max_running_requests: Requests that it runs at once, likewise.
        sensor: What measures iterations: the plugin, through its ring, or the engine's own
            ForwardPassMetrics.
    """

    hardware: str | None = Field(default=None, description="the name of a hardware profile")
    model: str | None = Field(default=None, description="the name of a model profile, or a file")
    tensor_parallel: Count = Field(default=1, description="the number of GPUs of one instance")
    table_mhz: tuple[Positive, ...] = Field(
        default=(), description="the clocks of the device in MHz, where none can be asked"
    )
    max_power_w: Positive | None = Field(
        default=None, description="the power limit of all GPUs of an instance in watts"
    )
    kv_capacity_tokens: Count | None = Field(
        default=None, description="the tokens that a KV cache holds, where the engine does not say"
    )
    kv_reserved_tokens: WholeNotNegative | None = Field(
        default=None, description="the tokens kept free for each request, where it does not say"
    )
    max_batch_tokens: Count | None = Field(
        default=None, description="the prompt tokens of one iteration, where it does not say"
    )
    max_running_requests: Count | None = Field(
        default=None, description="the requests that run at once, where it does not say"
    )
    sensor: Literal["ring", "forward-pass-metrics"] = Field(
        default="ring", description="what measures iterations"
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> EngineTable:
        if (self.hardware is None) != (self.model is None):
            raise invalid(
                "engine.hardware, engine.model",
                (self.hardware, self.model),
                "both or neither",
                "A physical prior needs both; leave both out to learn from nothing.",
            )
        return self


class PolicyTable(StrictTable):
    """What decides.

    Attributes:
        controller: Name of a policy (``voltana policies``), or ``MODULE:FACTORY``.
        predictor: ``MODULE:FACTORY`` of a user's own latency model, in place of the policy's.
        levels: Clocks that may be chosen, as in ``voltana simulate --levels``; None leaves the
            choice to the policy.
        profile: Profile file for a warm start (the command ``profile``).
    """

    controller: str = Field(
        default="voltana", description="the name of a policy, or MODULE:FACTORY"
    )
    predictor: str | None = Field(
        default=None, description="MODULE:FACTORY of a latency model, in place of the policy's"
    )
    levels: str | None = Field(
        default=None, description="the clocks that may be chosen, such as 'above:900'"
    )
    profile: Path | None = Field(default=None, description="the profile file for a warm start")


class AgentTable(StrictTable):
    """Where agents live.

    Attributes:
        start: Who starts them: a human (or ``launch``), or the plugin.
        interpreter: Python of the environment in which agents live, or a command that runs it; None
            is that of whoever starts them. The plugin and ``launch`` append ``-m`` and the
            integration's module.
        rings: Folder of the shared memory that plugin and agent share.
        state: Folder of what was learned.
        host: Address of control endpoint and metrics; loopback, for it changes clocks.
        control_port: Port of an agent that has no other; 0 takes a free one.
        metrics_host: Address of the scrape port, which has figures and nothing else.
        metrics_port: The scrape port of an agent that has no other; None has figures on the control
            endpoint alone. ``launch`` counts instances' ports itself where one is given.
        metrics_names: Names, beside IP addresses and this host's own, under which it may be asked.
        feed_host: Address on which states are published to routers.
        feed_port: Port likewise.
        feed_key_file: File with the key that agents and routers share; a feed that leaves the host
            needs one.
        feed_open: Whether a feed may leave the host without a key.
        token_file: File with the token of the control endpoint; None makes one for this user.
        save_every_s: How often what was learned is saved.
        idle_tick_s: Period of control steps while nothing runs.
        log: Log level.
    """

    start: Literal["by-hand", "plugin"] = Field(
        default="by-hand", description="who starts the agent"
    )
    interpreter: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="the Python of the agents' environment, or a list: a command that runs it",
    )
    rings: Path = Field(default_factory=default_rings, description="a folder in memory")
    state: Path = Field(default_factory=default_state, description="the folder of what was learned")
    host: Literal["127.0.0.1", "::1", "localhost"] = Field(
        default="127.0.0.1", description="the loopback address of the control endpoint"
    )
    control_port: Port = Field(default=0, description="the port of the control endpoint")
    metrics_host: str = Field(default="127.0.0.1", description="the address of the scrape port")
    metrics_port: Port | None = Field(default=None, description="the scrape port")
    metrics_names: tuple[str, ...] = Field(
        default=(), description="a list of names under which figures may be asked for"
    )
    feed_host: str = Field(default="127.0.0.1", description="the address of the feed")
    feed_port: Port = Field(default=0, description="the port of the feed")
    feed_key_file: Path | None = Field(
        default=None, description="a file with the key that agents and routers share"
    )
    feed_open: bool = Field(
        default=False, description="whether a feed may leave the host without a key"
    )
    token_file: Path | None = Field(
        default=None, description="a file with the token of the control endpoint"
    )
    save_every_s: Positive = Field(default=30.0, description="the seconds between two saves")
    idle_tick_s: Annotated[float, Field(gt=0, le=0.5)] = Field(
        default=0.2, description="the seconds between two control steps of an idle instance"
    )
    log: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the log level"
    )

    @field_validator("interpreter", mode="before")
    @classmethod
    def _is_a_command(cls, value: object) -> object:
        return (value,) if isinstance(value, str) and value else value


class ActuatorTable(StrictTable):
    """What sets clocks.

    Attributes:
        kind: The daemon; the driver in the agent's own process (which then has to be root), by
            clocks or by power caps; a device that is only simulated; or nothing at all, which is
            the default.
        socket: Where the daemon listens.
        lease_s: How long a clock holds without a completed control step.
        dwell_s: How long a clock is held before a lower one is asked for.
        max_step_mhz: The most that a clock falls at a time; None lets it fall as it likes.
        caps_w: Power limit in watts of every level in MHz (``power-cap``); None spreads eight
            levels over the board's range.
    """

    kind: Literal["dry-run", "daemon", "in-process", "power-cap", "simulated"] = Field(
        default="dry-run", description="what sets clocks"
    )
    socket: Path = Field(
        default=Path(DEFAULT_SOCKET), description="the socket of voltana-actuatord"
    )
    lease_s: Annotated[float, Field(ge=0.5, le=60)] = Field(
        default=2.0, description="the seconds that a clock holds without a control step"
    )
    dwell_s: Annotated[float, Field(ge=0, le=60)] = Field(
        default=0.0, description="the seconds before a clock falls"
    )
    max_step_mhz: Positive | None = Field(
        default=None, description="the most MHz that a clock falls at a time"
    )
    caps_w: dict[Positive, Positive] | None = Field(
        default=None, description="the power limit in watts of every level in MHz"
    )


class InstanceTable(StrictTable):
    """One server, where its agent is not told everything by flags.

    Attributes:
        name: Unique; the plugin is told it by a variable (``VOLTANA_SGLANG_INSTANCE``,
            ``VOLTANA_VLLM_INSTANCE``).
        role: What the server was started as; None asks the engine.
        gpus: Its GPUs, where the engine does not report them: UUIDs, or indices as the agent
            counts them.
        control_port: Port of its agent's control endpoint; None takes that of ``[agent]``.
        feed_port: Port of its agent's feed, likewise.
        metrics_port: Its scrape port, likewise.
        forward_pass_metrics: Where it publishes them, an address of ZMQ for each data-parallel
            rank (``engine.sensor = "forward-pass-metrics"``); none is a socket in ``agent.rings``.
    """

    name: str = Field(description="the name of an instance")
    role: Role | None = Field(default=None, description="what the server was started as")
    gpus: Annotated[tuple[str | int, ...], BeforeValidator(_gpus)] = Field(
        default=(), description="its GPUs, by UUID or by index"
    )
    control_port: Port | None = Field(default=None, description="the port of its agent")
    feed_port: Port | None = Field(default=None, description="the port of its agent's feed")
    metrics_port: Port | None = Field(default=None, description="its agent's scrape port")
    forward_pass_metrics: Annotated[tuple[str, ...], Field(max_length=MOST_RANKS)] = Field(
        default=(), description="a list of ZMQ addresses, one for each data-parallel rank"
    )

    @field_validator("forward_pass_metrics")
    @classmethod
    def _are_addresses(cls, endpoints: tuple[str, ...]) -> tuple[str, ...]:
        for endpoint in endpoints:
            if not ENDPOINT.fullmatch(endpoint):
                raise invalid(
                    "instance.forward_pass_metrics",
                    endpoint,
                    "ipc:// and a path of at most 100 characters, or tcp://HOST:PORT",
                    "Name what the engine publishes on, its rank included.",
                )
        if len(set(endpoints)) != len(endpoints):
            raise invalid(
                "instance.forward_pass_metrics", endpoints, "different from each other",
                "Each data-parallel rank publishes on an address of its own.",
            )  # fmt: skip
        return endpoints

    @field_validator("name")
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        if not INSTANCE_NAME.fullmatch(name):
            raise invalid("instance.name", name, ALLOWED_NAME, "Files are named after it.")
        return name
