"""Mutants of what keeps the SLO guarantee, and which of them the tests let live: `make mutants`."""
