"""Latency and power predictors, one algorithm a file."""
