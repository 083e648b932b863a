"""Scenarios, policies by name, metrics and reports."""
