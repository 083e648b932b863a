"""Prometheus metrics of an agent, from the same figures as its status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    Family = type[CounterMetricFamily] | type[GaugeMetricFamily]

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


GUARANTEE: Mapping[str, str] = {
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
}
"""Counters of the account, with the prefix ``guarantee``; docs/guarantee.md."""

REQUESTS: Mapping[str, tuple[Family, str]] = {
    "arrived": (CounterMetricFamily, "Requests that arrived."),
    "promised": (CounterMetricFamily, "Those that were promised to keep the threshold."),
    "scored": (CounterMetricFamily, "Promised ones that were scored."),
    "kept": (CounterMetricFamily, "Promised ones that kept it."),
    "missed": (CounterMetricFamily, "Promised ones that missed it."),
    "blocked": (CounterMetricFamily, "Ones that kept it, where only the margin blocked."),
    "withdrawn": (CounterMetricFamily, "Promised ones that were aborted with nothing to score."),
    "forgiven": (CounterMetricFamily, "Promised ones whose end is not known; the bound adds them."),
    "lost": (CounterMetricFamily, "Of those, the ones of which nothing was heard any more."),
    "in_flight": (GaugeMetricFamily, "Promised ones that are under way."),
    "constant": (GaugeMetricFamily, "What may be missed beyond alpha of those scored: C."),
    "bound": (GaugeMetricFamily, "Most misses that are proven to be possible by now."),
    "share_promised": (GaugeMetricFamily, "Share of the requests that were promised."),
}
"""Promised requests, with the prefix ``guarantee_requests`` and the label ``threshold``."""

VIABILITY: Mapping[str, tuple[str, str]] = {
    "windows": ("envelope_windows", "Windows held against the demand envelope."),
    "broken": ("envelope_broken", "Those in which the decode batch grew beyond it."),
    "learning": ("envelope_learning", "Windows from before the envelope was learned."),
    "steps": ("decode_steps", "Decisions on a decode batch."),
    "outside": ("viability_outside", "Those on a batch outside the viable set."),
}
"""Counters of viability; docs/viability.md. They start anew with another policy."""


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
        yield self._gpus(values)
        yield from self._by_kind(values)
        yield from self._errors(values)
        yield from self._guarantee(labels, values)
        yield from self._viability(labels, values)

    def _healthy(self, labels: list[str], values: list[str]) -> Metric:
        gauge = GaugeMetricFamily(PREFIX + "healthy", "1 if commands take effect.", labels=labels)
        gauge.add_metric(values, float(self._status.get("health") == "ok"))
        return gauge

    def _gpus(self, values: list[str]) -> Metric:
        gauge = GaugeMetricFamily(
            PREFIX + "gpu_info", "GPUs of the instance.", labels=["instance", "uuid"]
        )
        for uuid in self._status.get("gpus", ()):
            gauge.add_metric([*values, uuid], 1.0)
        return gauge

    def _by_kind(self, values: list[str]) -> Iterator[Metric]:
        for key, label, text in (
            ("iterations", "phase", "Measured iterations."),
            ("decisions", "status", "Decisions, by what they promised."),
            ("bindings", "constraint", "Decisions, by the constraint that set the clock."),
        ):
            counter = CounterMetricFamily(PREFIX + key, text, labels=["instance", label])
            for kind, count in self._status.get(key, {}).items():
                counter.add_metric([*values, kind], float(count))
            yield counter

    def _guarantee(self, labels: list[str], values: list[str]) -> Iterator[Metric]:
        """What was promised, and what became of it."""
        account = self._status.get("guarantee", {})
        for key, text in GUARANTEE.items():
            if account.get(key) is not None:
                counter = CounterMetricFamily(f"{PREFIX}guarantee_{key}", text, labels=labels)
                counter.add_metric(values, float(account[key]))
                yield counter
        for key, text in (
            ("bound", "Most misses that are proven to be possible by now."),
            ("in_flight", "Certified decisions whose label is to come."),
            ("longest_delay", "Most other labels that one came after; K has to be as many."),
            ("at_most", "Probability of a miss that is refuted with 95 % confidence."),
        ):
            if account.get(key) is not None:
                gauge = GaugeMetricFamily(f"{PREFIX}guarantee_{key}", text, labels=labels)
                gauge.add_metric(values, float(account[key]))
                yield gauge
        lost = CounterMetricFamily(
            PREFIX + "guarantee_unlabelled", "Certified decisions whose label never came.",
            labels=["instance", "cause"],
        )  # fmt: skip
        for cause, count in account.get("unlabelled", {}).items():
            lost.add_metric([*values, cause], float(count))
        yield lost
        yield from self._requests(values, account.get("requests", {}))

    @staticmethod
    def _requests(values: list[str], legs: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
        """What was promised to requests, by the threshold that it is about."""
        for key, (family, text) in REQUESTS.items():
            metric = family(
                f"{PREFIX}guarantee_requests_{key}", text, labels=["instance", "threshold"]
            )
            for leg, figures in legs.items():
                metric.add_metric([*values, leg], float(figures[key]))
            yield metric

    def _viability(self, labels: list[str], values: list[str]) -> Iterator[Metric]:
        """How often the envelope was broken, and the batch outside the viable set."""
        account = self._status.get("viability") or {}
        for key, (name, text) in VIABILITY.items():
            if account.get(key) is not None:
                counter = CounterMetricFamily(PREFIX + name, text, labels=labels)
                counter.add_metric(values, float(account[key]))
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
