"""What runs inside vLLM's engine core: measuring, and nothing else.

Only the standard library, `voltana_ring` and this package are imported here. Nothing here may raise
into the engine: `hooks.around` catches, counts, and after a few errors switches the meter off.
"""
