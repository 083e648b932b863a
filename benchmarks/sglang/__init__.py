"""Overhead of the SGLang integration, on real servers: ``make bench-sglang``."""
