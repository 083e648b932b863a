"""What an agent tells Prometheus: each metric once, with where it stands in the agent's status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana_actuatord.metrics.declared import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "voltana_agent_"
BACKEND = ("backend",)
"""Each has the instance's name under the router's word for it: ``instance`` is what Prometheus
calls the address that it scrapes."""


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=PREFIX + name, kind="gauge", help=text, labels=(*BACKEND, *labels))


def _counter(name: str, text: str, *labels: str) -> Metric:
    full = f"{PREFIX}{name}_total"
    return Metric(name=full, kind="counter", help=text, labels=(*BACKEND, *labels))


@dataclass(frozen=True, slots=True)
class Scaled:
    """A figure of the status, in the unit of its metric.

    Attributes:
        metric: The metric.
        factor: What the figure is multiplied by.
    """

    metric: Metric
    factor: float = 1.0


FLAT: Mapping[str, Scaled] = {
    "clock_mhz": Scaled(_gauge("clock_hertz", "Achieved SM clock."), 1e6),
    "target_mhz": Scaled(_gauge("target_clock_hertz", "SM clock that was asked for last."), 1e6),
    "power_w": Scaled(_gauge("power_watts", "Power of all GPUs of the instance.")),
    "running_requests": Scaled(_gauge("running_requests", "Requests in the batch.")),
    "kv_tokens": Scaled(_gauge("kv_tokens", "Tokens in the KV cache of the batch.")),
    "queued_requests": Scaled(_gauge("queued_requests", "Requests that wait.")),
    "queued_tokens": Scaled(_gauge("queued_tokens", "Tokens of the requests that wait.")),
    "latency_p50_ms": Scaled(_gauge("iteration_p50_seconds", "Median of recent iterations."), 1e-3),
    "latency_p99_ms": Scaled(
        _gauge("iteration_p99_seconds", "99th percentile of recent iterations."), 1e-3
    ),
    "ttft_ms": Scaled(_gauge("slo_ttft_seconds", "Threshold of the time to first token."), 1e-3),
    "itl_ms": Scaled(_gauge("slo_itl_seconds", "Threshold of the inter-token latency."), 1e-3),
    "attainment": Scaled(
        _gauge("attainment_ratio", "Share of recent tokens that kept the threshold.")
    ),
    "saving": Scaled(_gauge("saving_ratio", "Estimated share of energy saved; no measurement.")),
    "engines": Scaled(_gauge("engines", "Scheduler processes that are measured.")),
    "dry_run": Scaled(_gauge("dry_run", "1 while the devices are left alone.")),
    "energy_gap_s": Scaled(
        _counter(
            "energy_unknown_seconds",
            "Time of which the energy is not known; it is in no energy figure.",
        )
    ),
    "records_lost": Scaled(_counter("records_lost", "Measurements that were overwritten unread.")),
    "records_torn": Scaled(_counter("records_torn", "Measurements that could not be read.")),
    "drifts": Scaled(
        _counter(
            "predictor_drifts", "Alarms of drift, where the policy's latency model watches for it."
        )
    ),
}
"""Figures that stand alone in the status, by their key."""

HEALTHY = _gauge("healthy", "1 if commands take effect.")
GPU_INFO = _gauge("gpu_info", "1 for each GPU of the instance.", "uuid")
ENERGY = _counter(
    "energy_joules",
    "Energy of all GPUs of the instance, by its role and by where the figure comes from: the "
    "boards' energy counter, or their power integrated where that cannot be believed.",
    "role",
    "source",
)
TARGET = _gauge(
    "slo_target_ratio", "Share of requests that should keep the threshold.", "threshold"
)
SLO_EVENTS = _counter(
    "slo_events",
    "What is held against a threshold: tokens of decode iterations (itl), prefill iterations "
    "(ttft, by the oldest prompt in or behind them).",
    "threshold",
)
SLO_LATE = _counter("slo_late_events", "Those of slo_events that missed it.", "threshold")

BY_KIND: Mapping[str, Metric] = {
    "iterations": _counter("iterations", "Measured iterations.", "phase"),
    "decisions": _counter("decisions", "Decisions, by what they promised.", "status"),
    "bindings": _counter(
        "bindings", "Decisions, by the constraint that set the clock.", "constraint"
    ),
}
"""Tables of the status, by kind."""

GUARANTEE: Mapping[str, Metric] = {
    key: _counter(f"guarantee_{key}", text)
    for key, text in {
        "decided": "Certified decisions.",
        "certified": "Labels of certified decisions that were scored at the clock in force.",
        "blocked": "Scored hits of decisions that only the margin kept from a certificate.",
        "elsewhere": "Scored hits at another clock than the one in force.",
        "elsewhere_blocked": "Of those, hits of decisions that only the margin kept from it.",
        "missed": "Certified labels above their bound; proven to be at most the bound.",
        "violated": "Certified labels above their budget; never more than those that missed.",
        "forgiven": "Misses that clipping cut, which the bound adds.",
        "overdue": "Labels that came after more than K others.",
        "unsettled": "Certified labels in time that earned no credit.",
    }.items()
} | {
    "bound": _gauge("guarantee_bound", "Most misses that are proven to be possible by now."),
    "in_flight": _gauge("guarantee_in_flight", "Certified decisions whose label is to come."),
    "longest_delay": _gauge(
        "guarantee_longest_delay", "Most other labels that one came after; K has to be as many."
    ),
    "at_most": _gauge(
        "guarantee_miss_at_most_ratio",
        "Probability of a miss that is refuted with 95 % confidence.",
    ),
}
"""The account of certified decisions, by its keys (docs/guarantee.md)."""

UNLABELLED = _counter(
    "guarantee_unlabelled", "Certified decisions whose label never came.", "cause"
)

REQUESTS: Mapping[str, Metric] = {
    key: _counter(f"guarantee_requests_{key}", text, "threshold")
    for key, text in {
        "arrived": "Requests that arrived.",
        "promised": "Those that were promised to keep the threshold.",
        "scored": "Promised ones that were scored.",
        "kept": "Promised ones that kept it.",
        "missed": "Promised ones that missed it.",
        "blocked": "Ones that kept it, where only the margin blocked.",
        "withdrawn": "Promised ones that were aborted with nothing to score.",
        "forgiven": "Promised ones whose end is not known; the bound adds them.",
        "lost": "Of those, the ones of which nothing was heard any more.",
    }.items()
} | {
    key: _gauge(f"guarantee_requests_{name}", text, "threshold")
    for key, (name, text) in {
        "in_flight": ("in_flight", "Promised ones that are under way."),
        "constant": ("constant", "What may be missed beyond alpha of those scored: C."),
        "bound": ("bound", "Most misses that are proven to be possible by now."),
        "share_promised": ("promised_ratio", "Share of the requests that were promised."),
    }.items()
}
"""The account of promised requests, by its keys."""

VIABILITY: Mapping[str, Metric] = {
    key: _counter(name, text)
    for key, (name, text) in {
        "windows": ("envelope_windows", "Windows held against the demand envelope."),
        "broken": ("envelope_broken", "Those in which the decode batch grew beyond it."),
        "learning": ("envelope_learning", "Windows from before the envelope was learned."),
        "steps": ("decode_steps", "Decisions on a decode batch."),
        "outside": ("viability_outside", "Those on a batch outside the viable set."),
    }.items()
}
"""Counters of viability (docs/viability.md). They start anew with another policy."""

MARGINAL = _gauge(
    "marginal_energy_joules",
    "Energy above idling of one token more (output; prompt of prefill instances), at the clock "
    "that the instance would then run at, by the learned models. Absent where none fits.",
    "token",
)
HEAD_ROOM: Mapping[str, Metric] = {
    "head_room_requests": _gauge(
        "head_room_requests",
        "Requests that the instance can take while every threshold holds; of a prefill instance, "
        "prompts of 512 tokens.",
    ),
    "head_room_tokens": _gauge(
        "head_room_tokens",
        "Tokens that it can take likewise: of further prompts (prefill), or of its contexts.",
    ),
}
"""What routers of others may be steered by, by the status's keys (docs/steering.md)."""

ERRORS: Mapping[str, Metric] = {
    "mae_ms": _gauge(
        "prediction_mae_seconds", "Mean absolute error of recent predictions.", "phase"
    ),
    "mean_predictor_mae_ms": _gauge(
        "mean_predictor_mae_seconds",
        "That of the mean of all labels, for comparison.",
        "phase",
    ),
}
"""Errors of the latency model, by the status's keys; in milliseconds there."""

METRICS: tuple[Metric, ...] = (
    *(scaled.metric for scaled in FLAT.values()),
    HEALTHY,
    GPU_INFO,
    ENERGY,
    TARGET,
    SLO_EVENTS,
    SLO_LATE,
    *BY_KIND.values(),
    *GUARANTEE.values(),
    UNLABELLED,
    *REQUESTS.values(),
    *VIABILITY.values(),
    MARGINAL,
    *HEAD_ROOM.values(),
    *ERRORS.values(),
)
"""All of them."""
