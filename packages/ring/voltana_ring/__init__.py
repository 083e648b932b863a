"""Measurements of an engine in shared memory, and the bell that announces them.

Only the standard library is imported: the writer runs inside engines.
"""
