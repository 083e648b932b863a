"""What reports call the fields of a scenario: plain words, and the unit of their values."""

from __future__ import annotations

FIELDS: dict[str, tuple[str, str]] = {
    "power_budget_w": ("power budget", "W"),
    "power_budget_file": ("schedule of the power budget", ""),
    "power_shares": ("shares of the power budget", ""),
    "levels": ("clocks that may be chosen", ""),
    "predictor": ("latency model", ""),
    "seed": ("seed", ""),
    "cluster.hardware": ("GPU", ""),
    "cluster.model": ("model", ""),
    "cluster.tensor_parallel": ("GPUs an instance", ""),
    "cluster.prefill": ("prefill instances", ""),
    "cluster.decode": ("decode instances", ""),
    "cluster.colocated": ("colocated instances", ""),
    "slo.ttft_ms": ("TTFT threshold", "ms"),
    "slo.itl_ms": ("ITL threshold", "ms"),
    "slo.ttft_target": ("TTFT target", "share"),
    "slo.itl_target": ("ITL target", "share"),
    "slo.spending": ("longest iteration", "ITL thresholds"),
    "workload.name": ("workload", ""),
    "workload.rate_rps": ("request rate", "requests/s"),
    "workload.duration_s": ("arrivals last", "s"),
    "workload.arrival": ("arrival pattern", ""),
    "workload.rates_file": ("rates over time", ""),
    "workload.rates_start_s": ("rates from", "s"),
    "workload.cv": ("variation of the gaps between arrivals", ""),
    "workload.max_prompt_tokens": ("prompts cut at", "tokens"),
    "workload.max_output_tokens": ("answers cut at", "tokens"),
    "trace.file": ("trace", ""),
    "trace.format": ("format of the trace", ""),
    "trace.time_unit": ("unit of the trace's times", ""),
    "trace.rate_scale": ("replayed at a speed of", "times"),
    "trace.rate_rps": ("request rate", "requests/s"),
    "trace.start_s": ("trace from", "s"),
    "trace.duration_s": ("trace lasts", "s"),
    "trace.max_prompt_tokens": ("prompts cut at", "tokens"),
    "trace.max_output_tokens": ("answers cut at", "tokens"),
    "engine.max_prefill_tokens": ("longest prefill batch", "tokens"),
    "engine.max_running_requests": ("most requests of a batch", ""),
    "engine.memory_fraction": ("GPU memory for the engine", "share"),
    "engine.reserved_decode_tokens": ("KV cache kept free a request", "tokens"),
    "engine.mixed_chunk": ("prompts and decode in one batch", ""),
    "engine.prefix_cache": ("prompts are kept for those that begin alike", ""),
    "engine.page_tokens": ("page of the KV cache", "tokens"),
    "engine.transfer": ("KV transfer takes time", ""),
    "engine.binding": ("decode instance chosen, before or after the prefill", ""),
    "engine.latency_noise": ("noise of latencies", "log deviation"),
    "engine.sensor_noise": ("noise of the power sensor", "log deviation"),
    "engine.energy_tick_s": ("energy counter moves every", "s"),
    "engine.energy_window_s": ("power is learned every", "s"),
    "engine.idle_tick_s": ("idle control steps every", "s"),
    "engine.snapshot_period_s": ("routers' models renewed after", "s"),
    "engine.settle_s": ("a clock settles in", "s"),
    "disturbance": ("disturbances", ""),
}


def words(field: str) -> str:
    """What a field is called; its own name where nothing else is known."""
    return FIELDS.get(field, (field, ""))[0]


def labelled(field: str) -> str:
    """What an axis or a column of a field says: the words, and the unit where there is one."""
    name, unit = FIELDS.get(field, (field, ""))
    return f"{name} ({unit})" if unit else name


def with_value(field: str, value: object) -> str:
    """A field with a value of it, as in a list to choose from."""
    name, unit = FIELDS.get(field, (field, ""))
    return f"{name} {as_given(value)} {'' if value is None else unit}".rstrip()


def as_given(value: object) -> str:
    """A value of a field as a user gives it; two that differ never read alike."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            short = f"{value:g}"
            return short if float(short) == value else repr(value)
    return str(value)
