"""The daemon that lends GPU clocks and takes them back, its client, and the drivers under both.

Names are imported from their modules: the daemon's processes must stay small.
"""
