"""What a scheduler says of itself, whichever engine it is of."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """Facts about a scheduler process; they go into the ring's header as JSON.

    Attributes:
        engine: The engine, such as ``sglang``.
        version: Its version.
        role: ``prefill``, ``decode`` or ``unified``.
        model: Name or path of the model.
        port: Port of the server; 0 where it is not said.
        tp_size: GPUs of one instance.
        pp_size: Stages of its pipeline.
        dp_size: Its data-parallel ranks.
        tp_rank: Rank of this process in its tensor-parallel group.
        attn_tp_rank: Rank among those that share attention; rank 0 speaks for all.
        dp_rank: Data-parallel rank.
        pp_rank: Pipeline stage.
        gpu: GPU index as the engine counts.
        gpu_uuids: UUIDs of this host's GPUs of the tensor-parallel group, in order of its ranks;
            empty where they are not known, and then absent from the ring.
        device: Kind of device, such as ``cuda``.
        speculative: Whether an iteration may produce more than one token a request.
        kv_capacity_tokens: Tokens that the KV cache holds; 0 where it is not said.
        kv_reserved_tokens: Tokens that it keeps free in it for each request, the unused part of a
            last page included; None where it is not said.
        page_size: Tokens of one page of the KV cache; 0 where it is not said.
        max_running_requests: Requests of one batch; 0 likewise.
        max_prefill_tokens: Prompt tokens of one iteration; 0 likewise.
        names_waiting: Whether requests are named as soon as they wait in the scheduler.
        says_idle: Whether it says when nothing runs; else idling is concluded from silence.
        prompts_first: Whether it serves both phases, and computes prompts before those that run get
            their next tokens.
    """

    engine: str
    version: str
    role: str
    model: str
    port: int
    tp_size: int
    pp_size: int
    dp_size: int
    tp_rank: int
    attn_tp_rank: int
    dp_rank: int
    pp_rank: int
    gpu: int
    gpu_uuids: tuple[str, ...] = ()
    device: str
    speculative: bool
    kv_capacity_tokens: int
    kv_reserved_tokens: int | None
    page_size: int
    max_running_requests: int
    max_prefill_tokens: int
    names_waiting: bool
    says_idle: bool = False
    prompts_first: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process publishes for those that compute the same batches."""
        return self.attn_tp_rank == 0

    @property
    def ring_suffix(self) -> str:
        """Tells the rings of one instance apart."""
        return f"@dp{self.dp_rank}.pp{self.pp_rank}.tp{self.tp_rank}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        facts = asdict(self) | {"pid": os.getpid(), "gpu_uuids": list(self.gpu_uuids)}
        return facts if self.gpu_uuids else {k: v for k, v in facts.items() if k != "gpu_uuids"}


def whole(value: Any, otherwise: int = 0) -> int:
    """A number as an engine's settings have it; `otherwise` of anything else."""
    return int(value) if isinstance(value, int | float) else otherwise
