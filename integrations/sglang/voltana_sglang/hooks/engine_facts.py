"""What a scheduler says of itself, whichever version it is of."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.facts import EngineFacts, whole
from voltana_ring.hooks.gpu_uuids import gpu_uuids

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_facts(scheduler: Any, version: str) -> EngineFacts:
    """Ask a scheduler that was just made."""
    arguments = scheduler.server_args
    sources = list(_rank_sources(scheduler))
    mode = mode_of(scheduler)
    chunk = getattr(scheduler, "chunked_prefill_size", None) or 0
    device = str(getattr(scheduler, "device", "cuda"))
    page_size = whole(getattr(scheduler, "page_size", 0))
    return EngineFacts(
        engine="sglang",
        version=version,
        role="unified" if mode == "null" else mode,
        model=str(
            getattr(arguments, "served_model_name", None) or getattr(arguments, "model_path", "")
        ),
        port=whole(getattr(arguments, "port", 0)),
        tp_size=whole(getattr(arguments, "tp_size", 1), 1),
        pp_size=whole(getattr(arguments, "pp_size", 1), 1),
        dp_size=whole(getattr(arguments, "dp_size", 1), 1),
        tp_rank=_first(sources, "tp_rank"),
        attn_tp_rank=_first(sources, "attn_tp_rank"),
        # With attention of its own on every rank, the attention's rank tells them apart.
        dp_rank=_first(sources, "attn_dp_rank") or _first(sources, "dp_rank"),
        pp_rank=_first(sources, "pp_rank"),
        gpu=_first(sources, "gpu_id"),
        gpu_uuids=gpu_uuids(_gpus(sources, arguments)) if device == "cuda" else (),
        device=device,
        speculative=_speculative(scheduler),
        kv_capacity_tokens=whole(getattr(scheduler, "max_total_num_tokens", 0)),
        kv_reserved_tokens=_reserved(scheduler, mode, page_size),
        page_size=page_size,
        max_running_requests=whole(getattr(scheduler, "max_running_requests", 0)),
        max_prefill_tokens=whole(chunk)
        if whole(chunk) > 0
        else whole(getattr(scheduler, "max_prefill_tokens", 0)),
        names_waiting=mode == "prefill",
        prompts_first=mode == "null" and getattr(arguments, "enable_mixed_chunk", None) is False,
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
    hosts = max(1, whole(getattr(arguments, "nnodes", 1), 1))
    stages = max(1, whole(getattr(arguments, "pp_size", 1), 1))
    here = max(1, whole(getattr(arguments, "tp_size", 1), 1) // max(1, hosts // stages))
    step = max(1, whole(getattr(arguments, "gpu_id_step", 1), 1))
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
