"""Objects of AIPerf, one a line, to flat rows: what it replays, and what it measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from voltana.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

Row = tuple[int, "Mapping[str, Any]"]
"""Where in the file, and its cells by column."""


@dataclass(slots=True)
class _Session:
    time_ms: float
    context_tokens: float = 0.0


def aiperf_turns(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """The turns of AIPerf's sessions, each at its own time and with the history before it.

    A later turn gives the ``delay`` after the one before it, counted here from that one's arrival
    because how long its answer took is not recorded. Its ``input_length`` counts what is new; the
    prompt that an engine gets holds the earlier turns and their answers too, as AIPerf sends them.

    Raises:
        TraceError: If the first turn of a session says no time.
    """
    sessions: dict[object, _Session] = {}
    for line, row in rows:
        session_id, delay = row.get("session_id"), row.get("delay")
        known = None if session_id is None else sessions.get(_key(session_id))
        time_ms = row.get("timestamp")
        if time_ms is None and known is not None and _is_count(delay):
            time_ms = known.time_ms + delay
        if time_ms is None:
            raise TraceError(
                f"{path}, line {line}: says neither 'timestamp' nor a 'delay' after an earlier "
                "turn of its session. Give the first turn of every session a timestamp."
            )
        prompt, output = row.get("input_length"), row.get("output_length")
        context = 0.0 if known is None else known.context_tokens
        flat: dict[str, Any] = {"timestamp": time_ms, "output_length": output}
        flat["input_length"] = context + prompt if context and _is_count(prompt) else prompt
        yield line, flat
        if session_id is None:
            continue
        if _is_count(time_ms) and _is_count(prompt) and _is_count(output):
            sessions[_key(session_id)] = _Session(time_ms, context + prompt + output)


def aiperf_records(rows: Iterable[Row], _path: Path) -> Iterator[Row]:
    """The requests that AIPerf measured; those that failed have no output tokens."""
    for line, row in rows:
        metadata, metrics = row.get("metadata"), row.get("metrics")
        if not isinstance(metadata, dict) or metadata.get("benchmark_phase") == "warmup":
            continue
        counts = metrics if isinstance(metrics, dict) and not row.get("error") else {}
        yield (
            line,
            {
                "metadata.request_start_ns": metadata.get("request_start_ns"),
                "metrics.input_sequence_length": _metric(counts, "input_sequence_length"),
                "metrics.output_sequence_length": _metric(counts, "output_sequence_length"),
            },
        )


def _metric(metrics: Mapping[str, Any], name: str) -> object:
    metric = metrics.get(name, 0)
    return metric.get("value") if isinstance(metric, dict) else metric


def _is_count(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(session_id: object) -> object:
    return session_id if isinstance(session_id, str | int) else repr(session_id)
