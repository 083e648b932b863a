"""Serving beside real engines: agents, router, launch and profiling, whatever the engine.

Engines are known through `voltana.serving.engine` alone.
"""
