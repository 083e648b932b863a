"""The entry point of vLLM's general plugins: puts the hooks in place, if voltana is configured.

vLLM calls this in every process, once or more. Without ``VOLTANA_VLLM_CONFIG`` it does nothing at
all.
"""

from __future__ import annotations

import os

from voltana_vllm import CONFIG_VARIABLE


def register() -> None:
    """Put the hooks around the scheduler's methods; never raises."""
    if not os.environ.get(CONFIG_VARIABLE):
        return
    import logging  # noqa: PLC0415

    try:
        from voltana_vllm.hooks.install import install  # noqa: PLC0415

        install()
    except Exception:
        logging.getLogger("vllm.voltana").exception("voltana: PASSIVE, it cannot be put in place")
