"""Prometheus metrics of an agent, from the same figures as its status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

PREFIX = "voltana_agent_"

GAUGES: Mapping[str, tuple[str, str, float]] = {
    "clock_mhz": ("clock_hertz", "Achieved SM clock.", 1e6),
    "target_mhz": ("target_clock_hertz", "SM clock that was asked for last.", 1e6),
    "power_w": ("power_watts", "Power of all GPUs of the instance.", 1.0),
    "running_requests": ("running_requests", "Requests in the batch.", 1.0),
    "kv_tokens": ("kv_tokens", "Tokens in the KV cache of the batch.", 1.0),
    "queued_requests": ("queued_requests", "Requests that wait.", 1.0),
    "queued_tokens": ("queued_tokens", "Their tokens.", 1.0),
    "latency_p50_ms": ("iteration_p50_seconds", "Median of recent iterations.", 1e-3),
    "latency_p99_ms": ("iteration_p99_seconds", "99th percentile of recent iterations.", 1e-3),
    "ttft_ms": ("slo_ttft_seconds", "Threshold of the time to first token.", 1e-3),
    "itl_ms": ("slo_itl_seconds", "Threshold of the inter-token latency.", 1e-3),
    "attainment": ("attainment_ratio", "Share of recent tokens that kept the threshold.", 1.0),
    "saving": ("saving_ratio", "Estimated share of energy saved; no measurement.", 1.0),
    "engines": ("engines", "Scheduler processes that are measured.", 1.0),
    "dry_run": ("dry_run", "1 while the devices are left alone.", 1.0),
}
COUNTERS: Mapping[str, tuple[str, str]] = {
    "energy_j": ("energy_joules", "Energy of all GPUs of the instance."),
    "records_lost": ("records_lost", "Measurements that were overwritten unread."),
    "records_torn": ("records_torn", "Measurements that could not be read."),
}


def render(status: Mapping[str, Any]) -> tuple[bytes, str]:
    """The metrics in the text format, and its content type.

    Args:
        status: What `Agent.status` returns.
    """
    registry = CollectorRegistry()
    registry.register(_Once(status))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Once:
    """A collector of figures that are known already."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """The metrics, each with the label of the instance; unknown figures are left out."""
        status = self._status
        labels, values = ["instance"], [str(status["instance"])]
        for key, (name, text, factor) in GAUGES.items():
            if status.get(key) is not None:
                gauge = GaugeMetricFamily(PREFIX + name, text, labels=labels)
                gauge.add_metric(values, float(status[key]) * factor)
                yield gauge
        for key, (name, text) in COUNTERS.items():
            if status.get(key) is not None:
                counter = CounterMetricFamily(PREFIX + name, text, labels=labels)
                counter.add_metric(values, float(status[key]))
                yield counter
        yield self._healthy(labels, values)
        yield from self._by_kind(values)
        yield from self._errors(values)

    def _healthy(self, labels: list[str], values: list[str]) -> Metric:
        gauge = GaugeMetricFamily(PREFIX + "healthy", "1 if commands take effect.", labels=labels)
        gauge.add_metric(values, float(self._status.get("health") == "ok"))
        return gauge

    def _by_kind(self, values: list[str]) -> Iterator[Metric]:
        for key, label, text in (
            ("iterations", "phase", "Measured iterations."),
            ("decisions", "status", "Decisions, by what they promised."),
        ):
            counter = CounterMetricFamily(PREFIX + key, text, labels=["instance", label])
            for kind, count in self._status.get(key, {}).items():
                counter.add_metric([*values, kind], float(count))
            yield counter

    def _errors(self, values: list[str]) -> Iterator[Metric]:
        for key, name, text in (
            ("mae_ms", "prediction_mae_seconds", "Mean absolute error of recent predictions."),
            (
                "mean_predictor_mae_ms",
                "mean_predictor_mae_seconds",
                "That of the mean of all labels, for comparison.",
            ),
        ):
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=["instance", "phase"])
            for phase, figures in self._status.get("prediction", {}).items():
                if figures.get(key) is not None:
                    gauge.add_metric([*values, phase], figures[key] * 1e-3)
            yield gauge
