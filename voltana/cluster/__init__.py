"""The one cluster core: what simulator, agent and router say and keep of a cluster's instances.

Pure: nothing here reads a clock, a device or a socket. The simulated plant and the serving code
beside real engines call the same functions, so that what was measured on the one runs on the other.
"""
