"""Replay of recorded traces: Azure LLM, Mooncake, BurstGPT, and generic CSV and JSONL files."""

from voltana.plant.workload.replay.formats import FORMAT_NAMES
from voltana.plant.workload.replay.read import read_trace

__all__ = ["FORMAT_NAMES", "read_trace"]
