"""Entry point ``sglang.srt.plugins``: what has to be adjusted in SGLang itself."""

from __future__ import annotations

import importlib


def register() -> None:
    """Keep Mooncake's sender from pinning memory through a CUDA stream (SGLang 0.5.23 and later).

    Does nothing where there is a GPU, or where this SGLang has no such switch.
    """
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        return
    try:
        mooncake = importlib.import_module("sglang.srt.disaggregation.mooncake.conn")
    except ImportError:
        return
    sender = getattr(mooncake, "MooncakeKVSender", None)
    if hasattr(sender, "supports_host_tensor_indices"):
        sender.supports_host_tensor_indices = False
