"""Declared metrics as prometheus_client knows them, for agent and router alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client.metrics_core import Metric as Family

    from voltana_actuatord.metrics.declared import Metric


def family(metric: Metric, samples: Iterable[tuple[Sequence[str], float]]) -> Family:
    """A metric with its samples, for a collector.

    Args:
        metric: Its declaration; a gauge or a counter.
        samples: Values of its labels, and its figure.
    """
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    made = kind(metric.name, metric.help, labels=metric.labels)
    for values, figure in samples:
        made.add_metric(list(values), figure)
    return made


def counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    """A counter that is counted where things happen."""
    return Counter(metric.name, metric.help, metric.labels, registry=registry)


def gauge(metric: Metric, registry: CollectorRegistry) -> Gauge:
    """A gauge, likewise."""
    return Gauge(metric.name, metric.help, metric.labels, registry=registry)


def histogram(metric: Metric, registry: CollectorRegistry, buckets: Sequence[float]) -> Histogram:
    """A histogram, likewise."""
    return Histogram(metric.name, metric.help, metric.labels, registry=registry, buckets=buckets)
