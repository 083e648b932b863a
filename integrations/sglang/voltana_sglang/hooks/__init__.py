"""What runs inside the engine's scheduler: measuring, and nothing else.

Only the standard library and this package are imported here. Nothing here may raise into the
engine: `hooks.around` catches, counts, and after a few errors switches the meter off.
"""
