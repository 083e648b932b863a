"""The table ``[launch]``: which servers to start on this host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from voltana.errors import invalid
from voltana.validation import Positive, StrictTable

ROLES = ("unified", "prefill", "decode")


_Servers = Annotated[int, Field(ge=0, le=64)]
_Count = Annotated[int, Field(ge=1, le=64)]
_Port = Annotated[int, Field(ge=1, le=65_000)]


_Gpu = Annotated[int, Field(ge=0, le=65_535)] | str


class LaunchTable(StrictTable):
    """A cluster on one host: prefill and decode servers, or unified ones.

    Attributes:
        engine: The engine, such as ``vllm``; None is that of the command.
        model_path: Folder of the model, or its name on the Hugging Face Hub.
        prefill: Prefill servers.
        decode: Decode servers.
        unified: Servers for both phases; excludes the other two.
        tensor_parallel: GPUs of one server.
        gpus: GPUs to hand out, `tensor_parallel` to each server: UUIDs, or indices that count by
            PCI bus within what the launch itself was given (``CUDA_VISIBLE_DEVICES``); None takes
            those in order; an empty list leaves devices alone (a machine without a GPU).
        host: Address that the servers listen on.
        first_port: Server i listens on `first_port` + i; the ports of transfers, agents and feeds
            follow in blocks of a hundred.
        arguments: Further arguments of every server.
        prefill_arguments: Further arguments of prefill servers.
        decode_arguments: Further arguments of decode servers.
        environment: Variables for every server.
        logs: Folder for one log a process, relative to the configuration file.
        start_timeout_s: How long servers may take to load the model.
        on_exit: When a process ends by itself: end everything, or serve with what is left.
        ib_device: RDMA device of the transfers; None lets the engine choose.
        interpreter: Python of the engine's environment; None is that of the launch.
    """

    engine: str | None = Field(default=None, description="the engine, such as 'vllm'")
    model_path: str = Field(description="the model: a folder, or a name on the Hugging Face Hub")
    prefill: _Servers = Field(default=0, description="the number of prefill servers")
    decode: _Servers = Field(default=0, description="the number of decode servers")
    unified: _Servers = Field(default=0, description="the number of servers for both phases")
    tensor_parallel: _Count = Field(default=1, description="the number of GPUs of one server")
    gpus: tuple[_Gpu, ...] | None = Field(
        default=None, description="a list of GPUs: indices, or UUIDs such as 'GPU-8932f937'"
    )
    host: str = Field(default="127.0.0.1", description="the address of the servers")
    first_port: _Port = Field(default=31000, description="the port of the first server")
    arguments: tuple[str, ...] = Field(
        default=(), description="a list of arguments of every server"
    )
    prefill_arguments: tuple[str, ...] = Field(
        default=(), description="a list of arguments of prefill servers"
    )
    decode_arguments: tuple[str, ...] = Field(
        default=(), description="a list of arguments of decode servers"
    )
    environment: dict[str, str] = Field(default_factory=dict, description="variables of servers")
    logs: Path = Field(default=Path("voltana-logs"), description="the folder of the logs")
    start_timeout_s: Positive = Field(default=900.0, description="the time to start, in seconds")
    on_exit: Literal["shut-down", "keep-serving"] = Field(
        default="shut-down", description="what to do when a process ends"
    )
    ib_device: str | None = Field(default=None, description="the RDMA device of transfers")
    interpreter: str | None = Field(
        default=None, min_length=1, description="the Python of the engine's environment"
    )

    @model_validator(mode="after")
    def _serves_something(self) -> LaunchTable:
        split = (self.prefill, self.decode)
        if self.unified:
            allowed = "0 beside unified servers"
            if any(split):
                raise invalid("launch.prefill, launch.decode", split, allowed, "Choose one kind.")
        elif not all(split):
            raise invalid(
                "launch.prefill, launch.decode",
                split,
                "1 or more each, unless launch.unified is",
                "Say how many servers of each kind to start.",
            )
        return self

    @model_validator(mode="after")
    def _has_gpus(self) -> LaunchTable:
        needed = (self.prefill + self.decode + self.unified) * self.tensor_parallel
        if self.gpus and len(set(self.gpus)) < needed:
            raise invalid(
                "launch.gpus",
                list(self.gpus),
                f"{needed} different ones, {self.tensor_parallel} for each server",
                "Name more GPUs, or start fewer servers.",
            )
        return self

    def instances(self) -> list[tuple[str, str]]:
        """Name and role of every server, prefill before decode."""
        counts = {"unified": self.unified, "prefill": self.prefill, "decode": self.decode}
        return [(f"{role}-{index}", role) for role in ROLES for index in range(counts[role])]
