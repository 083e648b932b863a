"""Entry point ``sglang.srt.plugins``: what has to be adjusted in SGLang itself."""

from __future__ import annotations

import importlib

from voltana_sglang_cpu.hook_cost import measure_hooks
from voltana_sglang_cpu.hook_toggle import toggle_hooks


def register() -> None:
    """Adjust SGLang to a machine without a GPU, and measure voltana's hooks if that is asked for.

    Mooncake's sender is kept from pinning memory through a CUDA stream (SGLang 0.5.23 and later).
    """
    measure_hooks()
    toggle_hooks()
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
