"""Pure transformations of traces: a time window, another rate, clipped lengths."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from voltana.errors import TraceError, invalid
from voltana.plant.workload.trace import Trace


def window(trace: Trace, start_s: float, end_s: float) -> Trace:
    """The requests that arrive in [start_s, end_s), on a time axis that begins at `start_s`.

    Raises:
        ConfigError: If the window is empty or reversed.
        TraceError: If no request arrives in it.
    """
    if not 0 <= start_s < end_s:
        raise invalid(
            "window", (start_s, end_s), "(start_s, end_s) with 0 <= start_s < end_s", "Swap or fix."
        )
    first, last = np.searchsorted(trace.arrival_s, [start_s, end_s])
    if first == last:
        raise TraceError(
            f"no request arrives in the window from {start_s:g} s to {end_s:g} s; the trace runs "
            f"from {trace.arrival_s[0]:g} s to {trace.arrival_s[-1]:g} s. Choose a window within."
        )
    return Trace(
        arrival_s=trace.arrival_s[first:last] - start_s,
        prompt_tokens=trace.prompt_tokens[first:last],
        output_tokens=trace.output_tokens[first:last],
        prefixes=trace.prefixes and trace.prefixes.take(np.arange(first, last)),
        cached_tokens=None if trace.cached_tokens is None else trace.cached_tokens[first:last],
    )


def mean_rate_rps(trace: Trace) -> float:
    """Mean rate between the first and the last arrival, in requests a second.

    Raises:
        TraceError: If all requests arrive at once, so that there is no rate.
    """
    span_s = float(trace.arrival_s[-1] - trace.arrival_s[0])
    if span_s <= 0:
        raise TraceError(
            "all requests of the trace arrive at the same instant, so that it has no rate. Leave "
            "the target rate out."
        )
    return (len(trace) - 1) / span_s


def scale_rate(trace: Trace, factor: float) -> Trace:
    """The same requests, `factor` times as fast: all times are divided by it.

    Raises:
        ConfigError: If `factor` is not positive and finite.
    """
    if not 0 < factor < math.inf:
        raise invalid("rate_scale", factor, "above 0 and finite", "2 doubles the request rate.")
    return trace if factor == 1 else replace(trace, arrival_s=trace.arrival_s / factor)


def clip_lengths(
    trace: Trace, *, max_prompt_tokens: int | None = None, max_output_tokens: int | None = None
) -> Trace:
    """The same arrivals with longer prompts and outputs cut; None leaves them as they are.

    Raises:
        ConfigError: If a maximum is below 1 token.
    """
    prompts, outputs = trace.prompt_tokens, trace.output_tokens
    if max_prompt_tokens is not None:
        prompts = np.minimum(prompts, _at_least_one("max_prompt_tokens", max_prompt_tokens))
    if max_output_tokens is not None:
        outputs = np.minimum(outputs, _at_least_one("max_output_tokens", max_output_tokens))
    return replace(trace, prompt_tokens=prompts, output_tokens=outputs)


def _at_least_one(field: str, tokens: int) -> int:
    if not 1 <= tokens < 2**63:
        raise invalid(field, tokens, "at least 1 token", "Leave it out to keep every length.")
    return int(tokens)
