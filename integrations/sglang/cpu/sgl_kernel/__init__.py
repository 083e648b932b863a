"""Stand-in for SGLang's compiled kernels on a machine without a GPU.

SGLang imports a few ``*_cpu`` entry points of `sgl_kernel` whatever the device. The one that
serving needs is here in plain torch; any other raises when it is called. As
``torch.ops.sgl_kernel`` stays empty, SGLang finds no AMX support and takes its native torch layers
everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def assign_req_to_token_pool_cpu(  # noqa: PLR0917  (the kernel's signature)
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,  # noqa: ARG001  (part of the kernel's signature)
) -> None:
    """Write the new cache slots of every request into its row; mutates `req_to_token`.

    Args:
        req_pool_indices: Row of each request, shape (n,).
        req_to_token: Cache slots by request and position, shape (rows, positions).
        start_offset: First new position of each request, shape (n,).
        end_offset: One past its last, shape (n,).
        out_cache_loc: The new slots of all requests, one after the other.
        pool_len: Positions in a row.
    """
    rows, starts, ends = req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist()
    taken = 0
    for row, start, end in zip(rows, starts, ends, strict=True):
        slots = out_cache_loc[taken : taken + end - start]
        req_to_token[row, start:end] = slots.to(req_to_token.dtype)
        taken += end - start


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Any other CPU kernel can be imported, and says what is missing when it is called."""
    if name.startswith("__") or not name.endswith("_cpu"):
        raise AttributeError(name)

    def missing(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(f"no CPU stand-in for {name}: docs/sglang-developers.md")

    return missing
