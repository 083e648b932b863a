"""What vLLM calls its key: ``--api-key`` guards everything below ``/v1``; it has no other."""

from __future__ import annotations

from voltana.serving.router.keys import KeyNames

KEY_NAMES = KeyNames(
    api_variable="VOLTANA_VLLM_API_KEY",
    admin_variable="VOLTANA_VLLM_API_KEY",
    admin_flag="--api-key",
)
