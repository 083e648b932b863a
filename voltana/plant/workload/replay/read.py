"""Read a recorded trace into a `Trace`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from voltana.errors import TraceError, invalid, unknown_name
from voltana.plant.workload.replay.formats import AUTO, FORMAT_NAMES
from voltana.plant.workload.replay.table import read_table
from voltana.plant.workload.replay.units import UNITS
from voltana.plant.workload.trace import Trace
from voltana.plant.workload.transform import clip_lengths, mean_rate_rps, scale_rate, window

if TYPE_CHECKING:
    import os

    from voltana.plant.workload.replay.table import Table


def read_trace(
    path: str | os.PathLike[str],
    trace_format: str = AUTO,
    *,
    time_unit: str = AUTO,
    window_s: tuple[float, float] | None = None,
    rate_scale: float = 1.0,
    target_rate_rps: float | None = None,
    max_prompt_tokens: int | None = None,
    max_output_tokens: int | None = None,
) -> Trace:
    """Read a recorded trace; the window is cut first, then the rate is scaled, lengths clipped.

    The first request arrives at 0 s (with a window: the window begins at 0 s). Requests without
    prompt or output tokens, which is how BurstGPT records failures, are dropped, and unsorted
    requests are sorted, each with one warning in the log; so is said where the times themselves
    had to tell their unit.

    Args:
        path: The file, gzipped or not.
        trace_format: One of `FORMAT_NAMES`; ``auto`` looks at the column names.
        time_unit: ``s``, ``ms``, ``us`` or ``ns``, whatever the format says; ``auto`` takes the
            format's, unless the times speak against it.
        window_s: Keep only requests that arrive in [start, end) after the file's first one.
        rate_scale: Make requests come this many times as fast.
        target_rate_rps: Or: make them come at this mean rate in requests a second.
        max_prompt_tokens: Clip longer prompts.
        max_output_tokens: Clip longer outputs.

    Raises:
        TraceError: If the file cannot be read or holds impossible values.
        ConfigError: If an argument is out of range.
    """
    if trace_format not in FORMAT_NAMES:
        raise unknown_name("trace format", trace_format, list(FORMAT_NAMES))
    if time_unit not in {AUTO, *UNITS}:
        raise unknown_name("time unit", time_unit, [AUTO, *UNITS])
    if target_rate_rps is not None and rate_scale != 1:
        raise invalid(
            "rate_scale", rate_scale, "left out beside target_rate_rps", "Give one of the two."
        )
    if target_rate_rps is not None and not 0 < target_rate_rps < math.inf:
        raise invalid(
            "target_rate_rps", target_rate_rps, "above 0 requests/s and finite", "Give a mean rate."
        )
    file = Path(path)
    table, because = read_table(file, trace_format, time_unit)
    log = structlog.get_logger("voltana.trace").bind(file=str(file))
    if because:
        log.warning(f"took the times for {because}; --time-unit (s, ms, us, ns) decides")
    try:
        trace = _clean(log, table)
        if window_s is not None:
            trace = window(trace, *window_s)
        if target_rate_rps is not None:
            rate_scale = target_rate_rps / mean_rate_rps(trace)
    except TraceError as error:
        raise TraceError(f"{file}: {error}") from None
    return clip_lengths(
        scale_rate(trace, rate_scale),
        max_prompt_tokens=max_prompt_tokens,
        max_output_tokens=max_output_tokens,
    )


def _clean(log: Any, table: Table) -> Trace:
    """Drop requests without tokens, sort the others, and let the first arrive at 0 s."""
    kept = (table.prompt_tokens > 0) & (table.output_tokens > 0)
    dropped = int(np.sum(~kept))
    if dropped == len(kept):
        raise TraceError(
            f"none of its {dropped} requests has both prompt and output tokens. Check the columns."
        )
    if dropped:
        log.warning("dropped requests without prompt or output tokens", requests=dropped)
        table = table.take(np.flatnonzero(kept))
    steps_back = int(np.sum(np.diff(table.time_s) < 0))
    if steps_back:
        log.warning("sorted requests that were not in the order of time", steps_back=steps_back)
        order = np.argsort(table.time_s, kind="stable")
        table = table.take(order)
    return Trace(
        arrival_s=table.time_s - table.time_s[0],
        prompt_tokens=table.prompt_tokens.astype(np.int64),
        output_tokens=table.output_tokens.astype(np.int64),
        prefixes=table.prefixes,
        cached_tokens=None if table.cached_tokens is None else table.cached_tokens.astype(np.int64),
    )
