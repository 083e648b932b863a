"""What a scheduler says of itself, whichever version it is of."""

from __future__ import annotations

import contextlib
import importlib
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from voltana_sglang.hooks.gpu_uuids import gpu_uuids

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """Facts about a scheduler process; they go into the ring's header as JSON.

    Attributes:
        version: Version of SGLang.
        role: ``prefill``, ``decode`` or ``unified``.
        model: Name or path of the model.
        port: Port of the server.
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
    """

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


def read_facts(scheduler: Any, version: str) -> EngineFacts:
    """Ask a scheduler that was just made."""
    arguments = scheduler.server_args
    sources = list(_rank_sources(scheduler))
    mode = mode_of(scheduler)
    chunk = getattr(scheduler, "chunked_prefill_size", None) or 0
    device = str(getattr(scheduler, "device", "cuda"))
    page_size = _whole(getattr(scheduler, "page_size", 0))
    return EngineFacts(
        version=version,
        role="unified" if mode == "null" else mode,
        model=str(
            getattr(arguments, "served_model_name", None) or getattr(arguments, "model_path", "")
        ),
        port=_whole(getattr(arguments, "port", 0)),
        tp_size=_whole(getattr(arguments, "tp_size", 1), 1),
        pp_size=_whole(getattr(arguments, "pp_size", 1), 1),
        dp_size=_whole(getattr(arguments, "dp_size", 1), 1),
        tp_rank=_first(sources, "tp_rank"),
        attn_tp_rank=_first(sources, "attn_tp_rank"),
        # With attention of its own on every rank, the attention's rank tells them apart.
        dp_rank=_first(sources, "attn_dp_rank") or _first(sources, "dp_rank"),
        pp_rank=_first(sources, "pp_rank"),
        gpu=_first(sources, "gpu_id"),
        gpu_uuids=gpu_uuids(_gpus(sources, arguments)) if device == "cuda" else (),
        device=device,
        speculative=_speculative(scheduler),
        kv_capacity_tokens=_whole(getattr(scheduler, "max_total_num_tokens", 0)),
        kv_reserved_tokens=_reserved(scheduler, mode, page_size),
        page_size=page_size,
        max_running_requests=_whole(getattr(scheduler, "max_running_requests", 0)),
        max_prefill_tokens=_whole(chunk)
        if _whole(chunk) > 0
        else _whole(getattr(scheduler, "max_prefill_tokens", 0)),
        names_waiting=mode == "prefill",
    )


def _reserved(scheduler: Any, mode: str, page_size: int) -> int | None:
    """What admission to a decode batch keeps free for each request; None where it is not said.

    A request's last page is its own, however little of it is used.
    """
    rest_of_page = max(page_size - 1, 0)
    if mode != "decode":
        return rest_of_page
    queue = getattr(scheduler, "disagg_decode_prealloc_queue", None)
    for source in (queue, scheduler.server_args):  # the flag's value, as it is used, or as given
        reserved = getattr(source, "num_reserved_decode_tokens", None)
        if isinstance(reserved, int):
            return reserved + rest_of_page
    return None


def _gpus(sources: list[Any], arguments: Any) -> tuple[int, ...]:
    """Indices of this host's GPUs of the tensor-parallel group, as this process counts."""
    hosts = max(1, _whole(getattr(arguments, "nnodes", 1), 1))
    stages = max(1, _whole(getattr(arguments, "pp_size", 1), 1))
    here = max(1, _whole(getattr(arguments, "tp_size", 1), 1) // max(1, hosts // stages))
    step = max(1, _whole(getattr(arguments, "gpu_id_step", 1), 1))
    first = _first(sources, "gpu_id") - _first(sources, "tp_rank") % here * step
    return tuple(first + step * rank for rank in range(here))


def mode_of(scheduler: Any) -> str:
    """``null``, ``prefill`` or ``decode``: the scheduler's part of a disaggregated pair."""
    return str(getattr(scheduler.disaggregation_mode, "value", scheduler.disaggregation_mode))


def _rank_sources(scheduler: Any) -> Iterator[Any]:
    """Where ranks are: a runtime context (0.5.21), ``ps`` (0.5.13), or the scheduler itself."""
    try:
        context = importlib.import_module("sglang.srt.runtime_context")
    except ImportError:
        pass
    else:
        for name in ("get_parallel", "get_device"):
            with contextlib.suppress(Exception):  # not there, or not initialised
                yield getattr(context, name)()
    state = getattr(scheduler, "ps", None)
    if state is not None:
        yield state
    yield scheduler


def _first(sources: list[Any], name: str) -> int:
    """The first source's number of a name; 0 where none has one."""
    for source in sources:
        try:
            value = getattr(source, name)
        except Exception:  # noqa: BLE001  (contexts raise errors of their own)
            continue
        if isinstance(value, int):
            return int(value)
    return 0


def _speculative(scheduler: Any) -> bool:
    algorithm = getattr(scheduler, "spec_algorithm", None)
    is_none = getattr(algorithm, "is_none", None)
    return bool(algorithm) if is_none is None else not is_none()


def _whole(value: Any, otherwise: int = 0) -> int:
    return int(value) if isinstance(value, int | float) else otherwise
