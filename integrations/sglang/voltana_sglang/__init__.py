"""Puts voltana in control of an unmodified SGLang: plugin, agent, router, launch, profile.

The engine imports `voltana_sglang.plugin` alone, which measures and publishes. Everything else runs
in processes of its own.
"""

__version__ = "0.1.0"
