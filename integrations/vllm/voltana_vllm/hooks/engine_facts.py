"""What a scheduler of vLLM says of itself, whichever version it is of."""

from __future__ import annotations

import importlib
import multiprocessing
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.facts import EngineFacts, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLES = ("prefill", "decode", "unified")

_BY_KV_ROLE = {"kv_producer": "prefill", "kv_consumer": "decode"}


def read_facts(scheduler: Any, version: str, told_role: str = "") -> EngineFacts:
    """Ask a scheduler that was just made.

    Args:
        scheduler: The scheduler.
        version: Of vLLM.
        told_role: What the environment says of its role; empty takes its ``kv_role``.
    """
    config = scheduler.vllm_config
    parallel, model = config.parallel_config, config.model_config
    block = whole(getattr(scheduler, "block_size", 0))
    tensor, stages = (
        _size(parallel, "tensor_parallel_size"),
        _size(parallel, "pipeline_parallel_size"),
    )
    ranks = _size(parallel, "data_parallel_size")
    rank = whole(getattr(parallel, "data_parallel_index", 0))
    alone = ranks == 1 and not (rank or _is_one_of_several(parallel))
    return EngineFacts(
        engine="vllm",
        version=version,
        role=told_role or role_of(config),
        model=_name(model),
        port=0,
        tp_size=tensor,
        pp_size=stages,
        dp_size=ranks,
        tp_rank=0,
        attn_tp_rank=0,
        dp_rank=rank,
        pp_rank=0,
        gpu=0,
        gpu_uuids=gpu_uuids(tensor * stages) if alone else (),
        device=_device(config),
        speculative=getattr(config, "speculative_config", None) is not None,
        kv_capacity_tokens=_capacity(scheduler, block),
        kv_reserved_tokens=max(block - 1, 0) if block else None,
        page_size=block,
        max_running_requests=whole(getattr(scheduler, "max_num_running_reqs", 0)),
        max_prefill_tokens=whole(getattr(scheduler, "max_num_scheduled_tokens", 0)),
        names_waiting=True,
        says_idle=True,
    )


def leads_here(scheduler: Any) -> bool:
    """Whether an engine is the first of its instance on this host: one agent there serves all."""
    parallel = scheduler.vllm_config.parallel_config
    local = getattr(parallel, "data_parallel_rank_local", None)
    return not whole(getattr(parallel, "data_parallel_index", 0) if local is None else local)


def role_of(config: Any) -> str:
    """What a server is by its ``--kv-transfer-config``."""
    transfer = getattr(config, "kv_transfer_config", None)
    return _BY_KV_ROLE.get(str(getattr(transfer, "kv_role", "")), "unified")


def told_role(environment: Mapping[str, str], variable: str) -> str:
    """The role that the environment says; empty if it says none.

    Raises:
        ValueError: If it is none.
    """
    role = environment.get(variable, "")
    if role and role not in ROLES:
        raise ValueError(f"{variable} = {role!r} is not allowed: must be one of {ROLES}")
    return role


def gpu_uuids(count: int) -> tuple[str, ...]:
    """UUIDs of the first GPUs that this process sees, as NVML writes them.

    The engine core must not touch CUDA, for it may fork the workers, so that vLLM's own platform is
    asked, which asks NVML.

    Returns:
        All of them, or none: half a group must not be taken for the whole. Never raises.
    """
    try:
        platform = importlib.import_module("vllm.platforms").current_platform
        if not platform.is_cuda():
            return ()
        found = tuple(str(platform.get_device_uuid(gpu)) for gpu in range(count))
    except Exception:  # noqa: BLE001  (no such platform, no driver: the engine serves on)
        return ()
    named = all(uuid.startswith(("GPU-", "MIG-")) for uuid in found)
    return found if named and len(set(found)) == len(found) else ()


def _is_one_of_several(parallel: Any) -> bool:
    """Whether other data-parallel engines were started with this one.

    The first of a dense model is configured as if it were alone, and sees the GPUs of all of them:
    its process has another name, and ports are left that only several need.
    """
    ports = getattr(parallel, "_data_parallel_master_port_list", None)
    return bool(ports) or "_DP" in multiprocessing.current_process().name


def _size(parallel: Any, name: str) -> int:
    return max(1, whole(getattr(parallel, name, 1), 1))


def _name(model: Any) -> str:
    served = getattr(model, "served_model_name", None)
    if isinstance(served, list | tuple):
        served = served[0] if served else None
    return str(served or getattr(model, "model", ""))


def _device(config: Any) -> str:
    device = getattr(config, "device_config", None)
    return str(getattr(device, "device_type", "") or "cuda")


def _capacity(scheduler: Any, block: int) -> int:
    """Tokens that the KV cache holds; layers of several kinds share its blocks."""
    blocks = whole(getattr(getattr(scheduler, "cache_config", None), "num_gpu_blocks", 0))
    groups = getattr(getattr(scheduler, "kv_cache_config", None), "kv_cache_groups", None)
    return blocks // max(1, len(groups) if groups else 1) * block
