"""Puts voltana in control of an unmodified vLLM: plugin, hooks, dialect and launch plan.

The engine imports `voltana_vllm.plugin` alone, which measures and publishes with nothing but the
standard library and `voltana_ring`. Everything else runs in processes of its own, and needs the
extra ``serving``.
"""

CONFIG_VARIABLE = "VOLTANA_VLLM_CONFIG"
"""Names the configuration file to the plugin; without it the plugin does nothing."""

INSTANCE_VARIABLE = "VOLTANA_VLLM_INSTANCE"
"""Names the instance to the plugin, which measures nothing without it."""

ROLE_VARIABLE = "VOLTANA_VLLM_ROLE"
"""What a server of ``kv_role = "kv_both"`` is: ``prefill``, ``decode`` or ``unified``."""
