"""Attacks on the daemon, the router, the agent and their files, each with honest use beside it.

Run by ``make attack``. What an attacker may do, and what is trusted, is in SECURITY.md.
"""
