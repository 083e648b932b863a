"""What the hooks of every engine share: they measure inside its scheduler, and nothing else.

Only the standard library and this distribution are imported here. Nothing here may raise into an
engine: whoever calls it catches, counts, and after a few errors switches the meter off
(`voltana_ring.hooks.guard`).
"""
