"""What the router tells Prometheus."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest

from voltana.serving.metric_families import counter, family, gauge, histogram
from voltana.serving.router import metrics_declared as told

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from voltana.cluster.ledger import Ledger
    from voltana.ports import TimeSource
    from voltana.serving.router.energy_split import EnergySplit
    from voltana.serving.router.pool import Pool
    from voltana.serving.router.wants import Wants
    from voltana.values import Role

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 8.0, 16.0, 60.0)


class Metrics:
    """Counters of one router, in a registry of their own.

    Args:
        pool: Servers, whose health and load are read when somebody asks.
        ledger: What is in flight.
        time: Time source.
    """

    def __init__(self, pool: Pool, ledger: Ledger, time: TimeSource) -> None:
        self._registry = registry = CollectorRegistry()
        # A child that is kept is found in a tenth of the time.
        self._requests = cache(counter(told.REQUESTS, registry).labels)
        self._choices = cache(counter(told.CHOICES, registry).labels)
        self._retries = cache(counter(told.RETRIES, registry).labels)
        self._first_token = histogram(told.FIRST_TOKEN, registry, _SECONDS)
        self.open = gauge(told.OPEN, registry)
        registry.register(_Servers(pool, ledger, time))

    def watch(self, wants: Mapping[Role, Wants]) -> None:
        """Tell what the routers lack, too."""
        self._registry.register(_Missing(wants))

    def split(self, energy: EnergySplit) -> None:
        """Tell what tenants have used, too."""
        self._registry.register(_Tenants(energy))

    def also(self, collector: Collector) -> None:
        """Tell what another part of the router counts itself."""
        self._registry.register(collector)

    def ended(self, endpoint: str, outcome: str) -> None:
        """A request has ended."""
        self._requests(endpoint, outcome).inc()

    def chosen(self, role: Role, source: str) -> None:
        """An instance was chosen."""
        self._choices(role.value, source).inc()

    def retried(self, backend: str) -> None:
        """An attempt is repeated."""
        self._retries(backend).inc()

    def first_token(self, after_s: float) -> None:
        """An answer has begun."""
        self._first_token.observe(after_s)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _Servers:
    """Reads the state of the servers at the time of a scrape."""

    def __init__(self, pool: Pool, ledger: Ledger, time: TimeSource) -> None:
        self._pool = pool
        self._ledger = ledger
        self._time = time

    def collect(self) -> Iterator[Metric]:
        servers = [((backend.name, backend.role.value), backend) for backend in self._pool]
        yield family(told.AVAILABLE, ((key, float(one.available)) for key, one in servers))
        yield family(
            told.IN_FLIGHT, ((key, float(self._ledger.in_flight(key[0]))) for key, _ in servers)
        )
        caches, now_s = self._ledger.caches, self._time.now_s()
        held = ((key, float(caches.held(key[0], now_s).prompt_tokens)) for key, _ in servers)
        yield family(told.HELD_CACHES, held)


class _Missing:
    """Reads what routers lack at the time of a scrape."""

    def __init__(self, wants: Mapping[Role, Wants]) -> None:
        self._wants = wants

    def collect(self) -> Iterator[Metric]:
        yield family(
            told.MISSING,
            (
                ((role.value, backend, need.value), 1.0)
                for role, wants in self._wants.items()
                for backend, needs in wants.missing.items()
                for need in needs
            ),
        )
        yield family(
            told.CHOICES_WITHOUT,
            (((role.value,), float(wants.lacking_choices)) for role, wants in self._wants.items()),
        )


class _Tenants:
    """Reads the account of tenants at the time of a scrape."""

    def __init__(self, energy: EnergySplit) -> None:
        self._energy = energy

    def collect(self) -> Iterator[Metric]:
        energy = self._energy
        yield family(told.TENANT_ENERGY, energy.by_tenant_j.items())
        for metric, table in (
            (told.UNATTRIBUTED, energy.unattributed_j),
            (told.TENANT_REQUESTS, energy.requests),
            (told.TENANT_TOKENS, energy.prompt_tokens),
        ):
            yield family(metric, (((name,), float(value)) for name, value in table.items()))
