"""What the router tells Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from voltana.cluster.ledger import Ledger
    from voltana.serving.router.pool import Pool
    from voltana.serving.router.wants import Wants
    from voltana.values import Role

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 8.0, 16.0, 60.0)


class Metrics:
    """Counters of one router, in a registry of their own.

    Args:
        pool: Servers, whose health and load are read when somebody asks.
        ledger: What is in flight.
    """

    def __init__(self, pool: Pool, ledger: Ledger) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "voltana_router_requests",
            "Requests by endpoint and how they ended",
            ("endpoint", "outcome"),
            registry=self._registry,
        )
        self._choices = Counter(
            "voltana_router_choices",
            "Choices among several instances by role and what they were planned on",
            ("role", "source"),
            registry=self._registry,
        )
        self._retries = Counter(
            "voltana_router_retries",
            "Attempts that were repeated, by the server to blame",
            ("backend",),
            registry=self._registry,
        )
        self._first_token = Histogram(
            "voltana_router_first_token_seconds",
            "Arrival to the first token of a stream, or to a whole answer",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.open = Gauge(
            "voltana_router_open_requests", "Requests that are open", registry=self._registry
        )
        self._registry.register(_Servers(pool, ledger))

    def watch(self, wants: Mapping[Role, Wants]) -> None:
        """Tell what the routers lack, too."""
        self._registry.register(_Missing(wants))

    def also(self, collector: Collector) -> None:
        """Tell what another part of the router counts itself."""
        self._registry.register(collector)

    def ended(self, endpoint: str, outcome: str) -> None:
        """A request has ended."""
        self._requests.labels(endpoint, outcome).inc()

    def chosen(self, role: Role, source: str) -> None:
        """An instance was chosen."""
        self._choices.labels(role.value, source).inc()

    def retried(self, backend: str) -> None:
        """An attempt is repeated."""
        self._retries.labels(backend).inc()

    def first_token(self, after_s: float) -> None:
        """An answer has begun."""
        self._first_token.observe(after_s)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _Servers:
    """Reads the state of the servers at the time of a scrape."""

    def __init__(self, pool: Pool, ledger: Ledger) -> None:
        self._pool = pool
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        labels = ("backend", "role")
        healthy = GaugeMetricFamily(
            "voltana_router_backend_available", "1 if it gets requests", labels=labels
        )
        requests = GaugeMetricFamily(
            "voltana_router_backend_in_flight", "Prompts in flight towards it", labels=labels
        )
        for backend in self._pool:
            key = (backend.name, backend.role.value)
            healthy.add_metric(key, float(backend.available))
            requests.add_metric(key, float(self._ledger.in_flight(backend.name)))
        yield healthy
        yield requests


class _Missing:
    """Reads what routers lack at the time of a scrape."""

    def __init__(self, wants: Mapping[Role, Wants]) -> None:
        self._wants = wants

    def collect(self) -> Iterator[Metric]:
        missing = GaugeMetricFamily(
            "voltana_router_missing",
            "1 for what the router of a role needs and a server does not give it",
            labels=("role", "backend", "need"),
        )
        choices = CounterMetricFamily(
            "voltana_router_choices_without",
            "Choices among several instances that a router made without something that it needs",
            labels=("role",),
        )
        for role, wants in self._wants.items():
            choices.add_metric((role.value,), float(wants.lacking_choices))
            for backend, needs in wants.missing.items():
                for need in needs:
                    missing.add_metric((role.value, backend, need.value), 1.0)
        yield missing
        yield choices
