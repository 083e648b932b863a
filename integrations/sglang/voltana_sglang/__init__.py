"""Puts voltana in control of an unmodified SGLang: plugin, hooks, dialect and launch plan.

The engine imports `voltana_sglang.plugin` alone, which measures and publishes with nothing but the
standard library and `voltana_ring`. Everything else runs in processes of its own, and needs the
extra ``serving``.
"""

CONFIG_VARIABLE = "VOLTANA_SGLANG_CONFIG"
"""Names the configuration file to the plugin; without it the plugin does nothing."""

INSTANCE_VARIABLE = "VOLTANA_SGLANG_INSTANCE"
"""Names the instance to the plugin; without it the name is the role and the server's port."""
