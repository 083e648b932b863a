"""Reads of ``/metrics`` how busy a server is; all of its data-parallel engines together."""

from __future__ import annotations

import math
import re

from voltana.values import InstanceState

LOADS_PATH = "/metrics"

_SAMPLE = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|cache_config_info)"
    r"\{([^}]*)\} (\S+)$",
    re.MULTILINE,
)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_MOST = 1e9


def state_of(text: str) -> InstanceState:
    """The state of an instance.

    Args:
        text: What ``/metrics`` answers.

    Raises:
        ValueError: If it says nothing of requests, or no numbers.
    """
    sums: dict[str, float] = {}
    usage: list[tuple[str, float]] = []
    capacity: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        found = dict(_LABEL.findall(labels))
        engine = found.get("engine", "")
        if name == "cache_config_info":
            capacity[engine] = _number(found, "num_gpu_blocks") * _number(found, "block_size")
        elif name == "kv_cache_usage_perc":
            usage.append((engine, _bounded(name, value)))
        else:
            sums[name] = sums.get(name, 0.0) + _bounded(name, value)
    if "num_requests_running" not in sums or "num_requests_waiting" not in sums:
        raise ValueError("unknown form of metrics: it has no vllm:num_requests_running")
    tokens = sum(share * capacity.get(engine, 0.0) for engine, share in usage)
    return InstanceState(
        running_requests=int(sums["num_requests_running"]),
        kv_tokens=int(tokens),
        queued_requests=int(sums["num_requests_waiting"]),
        queued_tokens=0,
        clock_mhz=math.nan,
    )


def _number(labels: dict[str, str], name: str) -> float:
    text = labels.get(name, "")
    return float(text) if text.isdecimal() and len(text) < 12 else 0.0


def _bounded(name: str, text: str) -> float:
    value = float(text)
    if not 0 <= value <= _MOST:
        raise ValueError(f"{name} = {text}: must be from 0 to {_MOST:g}")
    return value
