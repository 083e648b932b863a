"""The request log of SGLang (``--log-requests``) to flat rows, as JSON or as text."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from voltana.errors import TraceError

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator
    from pathlib import Path

    from voltana.plant.workload.replay.records import Row

_JSON_LINE = re.compile(r'^(?:\[[^\]]{1,80}\] )?(\{"timestamp": .*"event": "request\.)')
_STAMPED = re.compile(r"\[\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[^\]]{0,60}\] ")
_TEXT_LINE = re.compile(r"^\[([^\]]{19,80})\] (?:Finish|Receive): obj=")
_META = "'meta_info': {"
_FIGURE = r": (-?\d[\d.e+-]*)"
_COLUMNS = (
    "received",
    "meta_info.prompt_tokens",
    "meta_info.completion_tokens",
    "meta_info.cached_tokens",
)


def is_engine_log(head: str) -> bool:
    """Whether one of these lines is of the request log of SGLang, or the first is stamped as one.

    An engine may say much before its first request, and no JSON array begins with a bare date.
    """
    if _STAMPED.match(head.lstrip()):
        return True
    return any(_JSON_LINE.match(line) or _TEXT_LINE.match(line) for line in head.splitlines())


def engine_log_rows(text: io.TextIOBase, path: Path) -> Iterator[Row]:
    """The finished requests of a log, among whatever else the engine said.

    A request arrived when the engine says that it did (``request_received_ts``, which it writes
    with ``--enable-metrics``), and otherwise its latency before the line that it finished with.

    Raises:
        TraceError: If no request finishes in it.
    """
    dated = None
    for number, line in enumerate(text, start=1):
        row = _json_row(line) if '"request.finished"' in line else _text_row(line)
        if row is None:
            continue
        received_s, arrived_s, prompt, output, cached = row
        dated = received_s is not None if dated is None else dated
        if dated and received_s is None:
            raise TraceError(
                f"{path}, line {number}: says no request_received_ts, unlike the lines before it. "
                "Split the log where --enable-metrics was taken away."
            )
        cells = (received_s if dated else arrived_s, prompt, output, cached)
        yield number, dict(zip(_COLUMNS, cells, strict=True))
    if dated is None:
        raise TraceError(
            f"{path}: no request finishes in this log of SGLang. Start the engine with "
            "--log-requests, and name the log once requests are served."
        )


class _Finished(NamedTuple):
    """A finished request; `arrived_s` by the stamp of the line, on a clock of the engine's zone."""

    received_s: object
    arrived_s: float
    prompt: object
    output: object
    cached: object


def _json_row(line: str) -> _Finished | None:
    try:
        entry = json.loads(line[line.find("{") :])
        meta: dict[str, Any] = entry["out"]["meta_info"]
        arrived_s = _seconds(entry["timestamp"]) - float(meta.get("e2e_latency", 0.0))
        return _Finished(
            meta.get("request_received_ts"),
            arrived_s,
            meta.get("prompt_tokens", 0),
            meta.get("completion_tokens", 0),
            meta.get("cached_tokens", 0),
        )
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None  # cut off by a restart, or something else that only looks like an entry


def _text_row(line: str) -> _Finished | None:
    stamp, place = _TEXT_LINE.match(line), line.rfind(_META)
    if stamp is None or place < 0:
        return None
    meta = line[place + len(_META) :]
    try:
        arrived_s = _seconds(stamp[1]) - (_figure(meta, "e2e_latency") or 0.0)
    except ValueError:
        return None
    return _Finished(
        _figure(meta, "request_received_ts"),
        arrived_s,
        _figure(meta, "prompt_tokens") or 0,
        _figure(meta, "completion_tokens") or 0,
        _figure(meta, "cached_tokens") or 0,
    )


def _figure(meta: str, name: str) -> float | None:
    match = re.search(f"'{name}'{_FIGURE}", meta)
    try:
        return None if match is None else float(match[1])
    except ValueError:
        return None


def _seconds(moment: str) -> float:
    """A stamp without a zone, on the axis of UTC: only differences of them are ever used."""
    return datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
