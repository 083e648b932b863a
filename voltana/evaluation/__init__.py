"""Scenarios, comparisons, what is searched in hindsight, metrics and reports."""
